#include "ring_rig.h"

#include <rapidcheck.h>

#include <algorithm>
#include <iterator>

namespace causeway::testing {

using namespace virtio;

namespace {

constexpr std::uint32_t kBufferBytes = 64;
constexpr std::uint32_t kPlaces = 512;

std::byte sent_byte(std::uint64_t token, std::size_t at) {
  return static_cast<std::byte>(token * 7 + at);
}
std::byte answer_byte(std::uint64_t token, std::size_t at) {
  return static_cast<std::byte>(token * 11 + at + 1);
}

/// Mostly short chains, now and then one that no indirect table of the driver holds.
std::size_t any_count(std::size_t least) {
  if (*rc::gen::inRange(0, 12) == 0) return *rc::gen::inRange<std::size_t>(least, kIndirectEntries + 4);
  return *rc::gen::inRange<std::size_t>(least, least + 4);
}

std::size_t any_part(RingRig::How how, std::size_t all) {
  return how == RingRig::How::all ? all : *rc::gen::inRange<std::size_t>(0, all + 1);
}

QueueState start_of(const RingShape& shape) {
  return {.avail = shape.start, .used = shape.start, .in_flight = {}};
}

constexpr std::uint64_t kLogBytes = (GuestMemory::kBase + (4 << 20)) / memory::DirtyLog::kPage / 8;

RingConfig with_log(RingConfig config, const OwnedFd& file, bool logs) {
  if (logs) config.log = value_or_die(memory::DirtyLog::map(file, 0, kLogBytes));
  return config;
}

RingConfig with_start(RingConfig config, QueueState start) {
  config.start = std::move(start);
  return config;
}

}  // namespace

RingShape any_shape(std::uint32_t max_entries) {
  RingShape shape{.features = {}, .entries = 1, .start = 0, .logs = *rc::gen::arbitrary<bool>()};
  for (const Feature bit : {Feature::indirect_desc, Feature::event_idx, Feature::in_order, Feature::ring_packed}) {
    if (*rc::gen::arbitrary<bool>()) shape.features = shape.features.with(bit);
  }
  if (layout_of(shape.features) == Layout::split) {
    while (2 * shape.entries <= max_entries && *rc::gen::inRange(0, 4) != 0) shape.entries *= 2;
    shape.start = static_cast<std::uint16_t>(0U - *rc::gen::inRange<std::uint32_t>(0, 2 * shape.entries + 1));
  } else {
    shape.entries = *rc::gen::inRange<std::uint32_t>(1, max_entries + 1);
    const auto index = *rc::gen::inRange<std::uint32_t>(0, shape.entries);
    shape.start = static_cast<std::uint16_t>(index | (*rc::gen::arbitrary<bool>() ? kWrapCounter : 0U));
  }
  return shape;
}

RingRig::RingRig(const RingShape& shape)
    : log_file_(value_or_die(make_memfd("log", kLogBytes))),
      log_(shape.logs ? value_or_die(Mapping::map(log_file_, 0, kLogBytes)) : nullptr),
      config_(with_log(with_start(memory_.make_ring(shape.entries, shape.features), start_of(shape)), log_file_,
                       shape.logs)),
      in_order_(shape.features.has(Feature::in_order)),
      driver_((write_past(), make_driver(config_.start))),
      device_(value_or_die(DeviceQueue::start(config_, memory_.map(), Remember::in_flight))),
      kicks_(shape.features, shape.entries),
      calls_(shape.features, shape.entries) {
  for (std::uint32_t i = 0; i < kPlaces; ++i) places_.push_back(memory_.allocate(kBufferBytes));
}

void RingRig::write_past() {
  if (config_.features.has(Feature::indirect_desc)) tables_ = memory_.allocate(indirect_bytes(config_.size.entries()));
  if (config_.layout() == Layout::split) {
    memory_.at(config_.available, 4).put<std::uint16_t>(kRingIndex, config_.start.avail);
    memory_.at(config_.used, 4).put<std::uint16_t>(kRingIndex, config_.start.used);
    return;
  }
  // Descriptors before the start were used in this lap, those behind it in the lap before.
  PackedPosition at(config_.start.avail, config_.size.entries());
  const auto ring = memory_.at(config_.descriptors, RingAreaSizes::of(Layout::packed, config_.size).descriptors.bytes);
  for (std::uint32_t i = 0; i < config_.size.entries(); ++i) {
    at.retreat(1);
    PackedTail(0, 0, at.used_bits()).store(ring, at.offset(), std::memory_order_relaxed);
  }
}

DriverQueue RingRig::make_driver(const QueueState& start) {
  return value_or_die(DriverQueue::start(with_start(config_, start), memory_.map(), tables_));
}

std::vector<DriverBuffer> RingRig::any_buffers(std::size_t readable, std::size_t writable, Sent& sent) {
  std::vector<DriverBuffer> buffers;
  for (std::size_t i = 0; i < readable + writable; ++i) {
    const auto length = *rc::gen::inRange<std::uint32_t>(1, kBufferBytes + 1);
    buffers.push_back({.address = places_[i], .length = length});
    if (i >= readable) {
      sent.writable += length;
      continue;
    }
    std::vector<std::byte> bytes(length);
    for (std::size_t at = 0; at < length; ++at) bytes[at] = sent_byte(sent.token, sent.bytes.size() + at);
    memory_.at(places_[i], length).write(0, bytes);
    sent.bytes.insert(sent.bytes.end(), bytes.begin(), bytes.end());
  }
  return buffers;
}

void RingRig::add() {
  const auto readable = any_count(0);
  // Half of the chains are as those of a transmit queue.
  const auto writable = readable != 0 && *rc::gen::arbitrary<bool>() ? 0 : any_count(1);
  if (places_.size() < readable + writable) return;
  Sent sent{.token = next_token_, .bytes = {}, .writable = 0, .width = 1};
  const auto buffers = any_buffers(readable, writable, sent);
  const std::uint32_t free = driver_.free_descriptors();
  const std::span all(buffers);
  const bool is_indirect = tables_ && buffers.size() > 1 && buffers.size() <= kIndirectEntries;
  const bool was_added = driver_.add(all.first(readable), all.subspan(readable), next_token_);
  RC_ASSERT(was_added == ((is_indirect ? 1 : buffers.size()) <= free));
  if (!was_added) return;
  if (config_.layout() == Layout::packed) sent.width = free - driver_.free_descriptors();
  const auto end = places_.begin() + static_cast<std::ptrdiff_t>(buffers.size());
  owned_[next_token_] = {.places = {places_.begin(), end},
                         .writable = {buffers.begin() + static_cast<std::ptrdiff_t>(readable), buffers.end()}};
  places_.erase(places_.begin(), end);
  added_.push_back(std::move(sent));
  ++next_token_;
}

void RingRig::publish() {
  for (const Sent& sent : added_) published_ += sent.width;
  const auto expected = kicks_.move_to(published_);
  const bool kick = driver_.publish();
  if (expected) RC_ASSERT(kick == *expected);
  std::ranges::move(added_, std::back_inserter(visible_));
  added_.clear();
}

void RingRig::take(How how) {
  batch_.clear();
  const std::uint16_t limit = how == How::all ? std::uint16_t{64} : *rc::gen::inRange<std::uint16_t>(1, 40);
  RC_ASSERT(device_.has_available() == !visible_.empty());
  const std::uint16_t taken = device_.take(batch_, limit);
  RC_ASSERT(device_.fault() == RingFault::none);
  RC_ASSERT(taken > 0 || visible_.empty());
  RC_ASSERT(taken <= visible_.size());
  const auto keep = any_part(how, taken);
  for (std::size_t i = 0; i < taken; ++i) check(batch_[i], visible_[i]);
  device_.untake(batch_.chains().subspan(keep));
  for (std::size_t i = 0; i < keep; ++i) {
    const auto segments = batch_.writable(batch_[i]);
    if (again_ != 0) {
      --again_;
    } else {
      passed_ += visible_.front().width;
    }
    held_.push_back({batch_[i], {segments.begin(), segments.end()}, std::move(visible_.front())});
    visible_.pop_front();
  }
}

void RingRig::check(const Chain& chain, const Sent& sent) const {
  RC_ASSERT(chain.writable_bytes == sent.writable);
  RC_ASSERT(chain.readable_bytes == sent.bytes.size());
  std::vector<std::byte> bytes;
  for (const auto& segment : batch_.readable(chain)) {
    bytes.resize(bytes.size() + segment.size());
    segment.read(0, std::span(bytes).last(segment.size()));
  }
  RC_ASSERT(bytes == sent.bytes);
}

void RingRig::note_use(const Sent& sent, std::uint32_t written) {
  used_.push_back({.token = sent.token, .written = written, .width = sent.width});
}

void RingRig::use(How how) {
  for (std::size_t count = any_part(how, held_.size()); count != 0; --count) {
    const std::size_t which = in_order_ || how == How::all ? 0 : *rc::gen::inRange<std::size_t>(0, held_.size());
    const Held held = std::move(held_[which]);
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(which));
    const auto written = *rc::gen::inRange<std::uint32_t>(0, static_cast<std::uint32_t>(held.sent.writable) + 1);
    std::size_t at = 0;
    for (const auto& segment : held.writable) {
      for (std::size_t i = 0; i < segment.size() && at < written; ++i, ++at) {
        segment.put(i, answer_byte(held.sent.token, at));
      }
    }
    device_.use(held.chain, written);
    note_use(held.sent, written);
  }
}

void RingRig::use_unwritten() {
  std::vector<Chain> chains;
  while (!held_.empty() && held_.front().sent.writable == 0) {
    chains.push_back(held_.front().chain);
    note_use(held_.front().sent, 0);
    held_.pop_front();
  }
  device_.use_unwritten(chains);
}

std::vector<DriverBuffer> RingRig::ring_areas() const {
  const auto sizes = RingAreaSizes::of(config_.layout(), config_.size);
  return {{.address = config_.descriptors, .length = static_cast<std::uint32_t>(sizes.descriptors.bytes)},
          {.address = config_.used, .length = static_cast<std::uint32_t>(sizes.used.bytes)}};
}

std::vector<std::byte> RingRig::read_ring() const {
  std::vector<std::byte> bytes;
  for (const DriverBuffer& area : ring_areas()) {
    bytes.resize(bytes.size() + area.length);
    memory_.at(area.address, area.length).read(0, std::span(bytes).last(area.length));
  }
  return bytes;
}

bool RingRig::is_marked(memory::Iova at) const {
  const std::uint64_t page = at.value() / memory::DirtyLog::kPage;
  const auto bits = memory::GuestSpan::over({log_->data(), log_->size()});
  return ((bits.fetch<std::uint8_t>(page / 8) >> (page % 8)) & 1) != 0;
}

/// Does something that the device does to its ring: whatever it has written there is marked then.
template <class Work>
auto RingRig::with_marks(Work work) {
  if (log_ == nullptr) return work();
  note_marks();
  constexpr std::uint64_t kFirst = GuestMemory::kBase / memory::DirtyLog::kPage / 8;
  const std::vector<std::byte> nothing(kLogBytes - kFirst);
  memory::GuestSpan::over({log_->data(), log_->size()}).write(kFirst, nothing);
  const auto before = read_ring();
  const auto result = work();
  const auto after = read_ring();
  std::size_t at = 0;
  for (const DriverBuffer& area : ring_areas()) {
    for (std::uint32_t i = 0; i < area.length; ++i, ++at) {
      if (before[at] != after[at]) RC_ASSERT(is_marked(memory::Iova(area.address.value() + i)));
    }
  }
  return result;
}

/// A chain is marked between the last byte that is written into it and the publish.
void RingRig::note_marks() {
  for (const Used& used : used_) {
    for (const DriverBuffer& buffer : owned_.at(used.token).writable) {
      for (const std::uint64_t at : {buffer.address.value(), buffer.address.value() + buffer.length - 1}) {
        if (is_marked(memory::Iova(at))) marked_.insert(at / memory::DirtyLog::kPage);
      }
    }
  }
}

void RingRig::check_marks(const Used& used) const {
  for (const DriverBuffer& buffer : owned_.at(used.token).writable) {
    RC_ASSERT(marked_.contains(buffer.address.value() / memory::DirtyLog::kPage));
    RC_ASSERT(marked_.contains((buffer.address.value() + buffer.length - 1) / memory::DirtyLog::kPage));
  }
}

void RingRig::publish_used() {
  for (const Used& used : used_) used_published_ += used.width;
  const auto expected = calls_.move_to(used_published_);
  const bool call = with_marks([&] { return device_.publish(); });
  if (expected) RC_ASSERT(call == *expected);
  if (log_ != nullptr) {
    note_marks();
    for (const Used& used : used_) check_marks(used);
    marked_.clear();
  }
  std::ranges::move(used_, std::back_inserter(returned_));
  used_.clear();
}

void RingRig::move_device() {
  publish_used();  // as its user must
  std::vector<Chain> outstanding;
  for (const Held& held : held_) outstanding.push_back(held.chain);
  const QueueState state = device_.state(outstanding);
  RC_ASSERT(state.in_flight.size() == held_.size() + again_);
  device_ = value_or_die(DeviceQueue::start(with_start(config_, state), memory_.map(), Remember::in_flight));
  again_ += held_.size();
  while (!held_.empty()) {
    visible_.push_front(std::move(held_.back().sent));
    held_.pop_back();
  }
}

void RingRig::move_driver() {
  if (driver_.in_flight() == 0) driver_ = make_driver(device_.state());
}

void RingRig::replace_map() {
  RC_ASSERT(device_.replace_map(memory_.map()).has_value());
}

void RingRig::check_written(const Used& used) {
  std::size_t at = 0;
  for (const DriverBuffer& buffer : owned_.at(used.token).writable) {
    const auto span = memory_.at(buffer.address, buffer.length);
    for (std::size_t i = 0; i < buffer.length && at < used.written; ++i, ++at) {
      RC_ASSERT(span.fetch<std::byte>(i) == answer_byte(used.token, at));
    }
  }
}

void RingRig::reap(How how) {
  for (std::size_t count = any_part(how, returned_.size()); count != 0; --count) {
    const auto chain = driver_.reap();
    RC_ASSERT(chain.has_value());
    const Used used = returned_.front();
    returned_.pop_front();
    RC_ASSERT(chain->token == used.token);
    RC_ASSERT(chain->written == used.written);
    check_written(used);
    reaped_ += used.width;
    const auto& places = owned_.at(used.token).places;
    places_.insert(places_.end(), places.begin(), places.end());
    owned_.erase(used.token);
  }
  if (returned_.empty()) RC_ASSERT(!driver_.reap().has_value());
  RC_ASSERT(!driver_.is_broken());
  RC_ASSERT(driver_.in_flight() == owned_.size());
}

void RingRig::arm_device() {
  RC_ASSERT(with_marks([&] { return device_.arm(); }) == !visible_.empty());
  kicks_.arm(passed_);
}

void RingRig::disarm_device() {
  with_marks([&] {
    device_.disarm();
    return 0;
  });
  kicks_.disarm();
}

void RingRig::arm_driver() {
  RC_ASSERT(driver_.arm() == !returned_.empty());
  calls_.arm(reaped_);
}

void RingRig::disarm_driver() {
  driver_.disarm();
  calls_.disarm();
}

void RingRig::finish() {
  publish();
  while (!visible_.empty() || !held_.empty() || !used_.empty()) {
    take(How::all);
    use(How::all);
    publish_used();
    reap(How::all);
  }
  reap(How::all);
  RC_ASSERT(driver_.in_flight() == 0);
  RC_ASSERT(driver_.free_descriptors() == config_.size.entries());
  RC_ASSERT(!device_.has_available());
  RC_ASSERT(!device_.arm());
}

}  // namespace causeway::testing

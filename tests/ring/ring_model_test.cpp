// The driver side against the device side, over all layouts, features, sizes, shapes and moves of the device side to
// another engine, held against a model that is a plain list.

#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>

#include "support/guest_memory.h"

namespace causeway::virtio {
namespace {

using testing::GuestMemory, testing::value_or_die;

/// What the model knows of a chain on its way.
struct Sent {
  std::uint64_t token;
  std::vector<std::byte> bytes;
  std::uint64_t writable;
};

constexpr std::uint32_t kBufferBytes = 256;

/// Driver, device, and the model between them: `added` (invisible yet), `visible` (may be taken), `held` (taken by the
/// device), `used` (to be reaped, in this order).
class Rig {
 public:
  Rig(std::uint32_t entries, FeatureSet features)
      : config_(memory_.make_ring(entries, features)),
        in_order_(features.has(Feature::in_order)),
        driver_(make_driver(features)),
        device_(value_or_die(DeviceQueue::start(config_, memory_.map(), Remember::in_flight))) {
    for (std::uint32_t i = 0; i < kPlaces; ++i) places_.push_back(memory_.allocate(kBufferBytes));
  }

  /// The driver adds a chain of some readable and some writable buffers.
  void add() {
    const auto readable = *rc::gen::inRange<std::size_t>(0, 5);
    const auto writable = *rc::gen::inRange<std::size_t>(readable == 0 ? 1 : 0, 5);
    if (places_.size() < readable + writable) return;
    std::vector<DriverBuffer> buffers;
    Sent sent{.token = next_token_, .bytes = {}, .writable = 0};
    for (std::size_t i = 0; i < readable + writable; ++i) {
      const auto length = *rc::gen::inRange<std::uint32_t>(1, kBufferBytes);
      buffers.push_back({.address = places_[i], .length = length});
      if (i >= readable) {
        sent.writable += length;
        continue;
      }
      std::vector<std::byte> bytes(length);
      for (std::size_t at = 0; at < length; ++at) bytes[at] = static_cast<std::byte>(next_token_ * 7 + at);
      memory_.at(places_[i], length).write(0, bytes);
      sent.bytes.insert(sent.bytes.end(), bytes.begin(), bytes.end());
    }
    const std::span all(buffers);
    if (!driver_.add(all.first(readable), all.subspan(readable), next_token_)) return;
    const auto end = places_.begin() + static_cast<std::ptrdiff_t>(readable + writable);
    owned_[next_token_].assign(places_.begin(), end);
    places_.erase(places_.begin(), end);
    added_.push_back(std::move(sent));
    ++next_token_;
  }

  void publish() {
    driver_.publish();
    std::ranges::move(added_, std::back_inserter(visible_));
    added_.clear();
  }

  enum class How : std::uint8_t { some, all };

  /// The device takes some chains, checks them against the model and keeps them; some it may put back.
  void take(How how = How::some) {
    batch_.clear();
    const std::uint16_t limit = how == How::all ? std::uint16_t{64} : *rc::gen::inRange<std::uint16_t>(1, 40);
    const std::uint16_t taken = device_.take(batch_, limit);
    RC_ASSERT(device_.fault() == RingFault::none);
    RC_ASSERT(taken > 0 || visible_.empty());
    RC_ASSERT(taken <= visible_.size());
    const std::uint16_t keep =
        how == How::all ? taken : *rc::gen::inRange<std::uint16_t>(0, static_cast<std::uint16_t>(taken + 1));
    for (std::uint16_t i = 0; i < taken; ++i) check(batch_[i], visible_[i]);
    device_.untake(batch_.chains().subspan(keep));
    for (std::uint16_t i = 0; i < keep; ++i) {
      held_.emplace_back(batch_[i], std::move(visible_.front()));
      visible_.pop_front();
    }
  }

  /// The device uses some of what it holds: the oldest with IN_ORDER, else any.
  void use(How how = How::some) {
    std::size_t count = how == How::all ? held_.size() : *rc::gen::inRange<std::size_t>(0, held_.size() + 1);
    for (; count != 0; --count) {
      const std::size_t which = in_order_ || how == How::all ? 0 : *rc::gen::inRange<std::size_t>(0, held_.size());
      const auto [chain, sent] = held_[which];
      held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(which));
      const auto written = static_cast<std::uint32_t>(sent.writable);
      device_.use(chain, written);
      used_.emplace_back(sent.token, written);
    }
    device_.publish();
  }

  /// The device uses what it holds as transmit queues do: all at once, as long as nothing is to be written.
  void use_unwritten() {
    std::vector<Chain> chains;
    while (!held_.empty() && held_.front().second.writable == 0) {
      chains.push_back(held_.front().first);
      used_.emplace_back(held_.front().second.token, 0);
      held_.pop_front();
    }
    device_.use_unwritten(chains);
    device_.publish();
  }

  /// The device side stops, and another engine goes on where it was: with what it held still in flight.
  void move_device() {
    RingConfig config = config_;
    std::vector<Chain> outstanding;
    for (const auto& [chain, sent] : held_) outstanding.push_back(chain);
    config.start = device_.state(outstanding);
    RC_ASSERT(config.start.in_flight.size() >= held_.size());
    device_ = value_or_die(DeviceQueue::start(config, memory_.map(), Remember::in_flight));
    while (!held_.empty()) {
      visible_.push_front(std::move(held_.back().second));
      held_.pop_back();
    }
  }

  void reap() {
    while (const auto chain = driver_.reap()) {
      RC_ASSERT(!used_.empty());
      RC_ASSERT(chain->token == used_.front().first);
      RC_ASSERT(chain->written == used_.front().second);
      used_.pop_front();
      auto& back = owned_.at(chain->token);
      places_.insert(places_.end(), back.begin(), back.end());
      owned_.erase(chain->token);
    }
    RC_ASSERT(used_.empty());
    RC_ASSERT(!driver_.is_broken());
    RC_ASSERT(driver_.in_flight() == owned_.size());
  }

  void finish() {
    publish();
    while (!visible_.empty() || !held_.empty()) {
      take(How::all);
      use(How::all);
      reap();
    }
    reap();
    RC_ASSERT(driver_.in_flight() == 0);
    RC_ASSERT(driver_.free_descriptors() == config_.size.entries());
    RC_ASSERT(!device_.has_available());
  }

 private:
  static constexpr std::uint32_t kPlaces = 512;

  void check(const Chain& chain, const Sent& sent) const {
    RC_ASSERT(chain.writable_bytes == sent.writable);
    std::vector<std::byte> bytes;
    for (const auto& segment : batch_.readable(chain)) {
      bytes.resize(bytes.size() + segment.size());
      segment.read(0, std::span(bytes).last(segment.size()));
    }
    RC_ASSERT(bytes == sent.bytes);
  }

  DriverQueue make_driver(FeatureSet features) {
    std::optional<memory::Iova> tables;
    if (features.has(Feature::indirect_desc)) tables = memory_.allocate(indirect_bytes(config_.size.entries()));
    return value_or_die(DriverQueue::start(config_, memory_.map(), tables));
  }

  GuestMemory memory_;
  RingConfig config_;
  bool in_order_;
  DriverQueue driver_;
  DeviceQueue device_;
  ChainBatch batch_;
  std::vector<memory::Iova> places_;
  std::map<std::uint64_t, std::vector<memory::Iova>> owned_;
  std::deque<Sent> added_;
  std::deque<Sent> visible_;
  std::deque<std::pair<Chain, Sent>> held_;
  std::deque<std::pair<std::uint64_t, std::uint32_t>> used_;
  std::uint64_t next_token_ = 0;
};

FeatureSet any_features() {
  FeatureSet features;
  for (const Feature bit : {Feature::indirect_desc, Feature::event_idx, Feature::in_order, Feature::ring_packed}) {
    if (*rc::gen::arbitrary<bool>()) features = features.with(bit);
  }
  return features;
}

std::uint32_t any_size(FeatureSet features) {
  if (features.has(Feature::ring_packed)) return *rc::gen::inRange<std::uint32_t>(1, 70);
  return 1U << *rc::gen::inRange(0, 8);
}

RC_GTEST_PROP(Rings, EveryChainIsUsedOnceWithItsBytes, ()) {
  const FeatureSet features = any_features();
  Rig rig(any_size(features), features);
  const auto steps = *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 16));
  for (const int step : steps) {
    if (step < 6) {
      rig.add();
    } else if (step < 8) {
      rig.publish();
    } else if (step < 10) {
      rig.take();
    } else if (step < 12) {
      rig.use();
    } else if (step < 13) {
      rig.use_unwritten();
    } else if (step < 14) {
      rig.move_device();
    } else {
      rig.reap();
    }
  }
  rig.finish();
}

class Wrapping : public ::testing::TestWithParam<std::tuple<FeatureSet, std::uint32_t>> {};

TEST_P(Wrapping, GoesOnForManyLaps) {
  const auto [features, entries] = GetParam();
  if (layout_of(features) == Layout::split && (entries & (entries - 1)) != 0) return;  // no size of a split ring
  GuestMemory memory(16 << 20);
  const RingConfig config = memory.make_ring(entries, features);
  auto driver = value_or_die(DriverQueue::start(config, memory.map()));
  auto device = value_or_die(DeviceQueue::start(config, memory.map()));
  const DriverBuffer buffer{.address = memory.allocate(64), .length = 64};
  const std::array two{buffer, buffer};
  ChainBatch batch;
  std::uint64_t sent = 0;
  std::uint64_t reaped = 0;
  while (reaped < 200'000) {
    while (driver.add(std::span(two).first(entries > 2 ? 1 + sent % 2 : 1), {}, sent)) ++sent;
    driver.publish();
    batch.clear();
    device.take(batch, 64);
    device.use_unwritten(batch.chains());
    device.publish();
    while (const auto used = driver.reap()) ASSERT_EQ(used->token, reaped++);
    ASSERT_EQ(device.fault(), RingFault::none) << text(device.fault());
    ASSERT_FALSE(driver.is_broken());
  }
}

INSTANTIATE_TEST_SUITE_P(Rings, Wrapping,
                         ::testing::Combine(::testing::Values(FeatureSet{Feature::event_idx},
                                                              FeatureSet{Feature::in_order},
                                                              FeatureSet{Feature::ring_packed},
                                                              FeatureSet{Feature::ring_packed, Feature::in_order}),
                                            ::testing::Values(1U, 3U, 255U, 256U, 32768U)));

}  // namespace
}  // namespace causeway::virtio

// The relay's queue between a driver side and a device side of our own: every chain comes back once, with what the
// device wrote, whatever layout and features either ring has.

#include "port/relay_queue.h"

#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <map>

#include "support/translated_memory.h"

namespace causeway::testing {
namespace {

using port::RelayQueue, port::ShadowRing;
using virtio::Chain, virtio::ChainBatch, virtio::DeviceQueue, virtio::DriverBuffer, virtio::DriverQueue;
using virtio::Feature, virtio::FeatureSet;

constexpr memory::Iova kShadow(0x7f'0000'0000);
constexpr std::uint32_t kBuffer = 256;

FeatureSet any_ring_features() {
  FeatureSet features;
  for (const auto feature : {Feature::ring_packed, Feature::indirect_desc, Feature::event_idx, Feature::in_order}) {
    if (*rc::gen::arbitrary<bool>()) features = features.with(feature);
  }
  return features;
}

/// A driver, a relay and a device, all on this thread. With `apart` the driver is behind an IOMMU, of which the relay
/// knows nothing but the ring's addresses.
class World {
 public:
  World(FeatureSet guest, FeatureSet device_features, std::uint16_t entries, bool logs, std::uint64_t apart = 0)
      : device_features_(device_features),
        apart_(apart),
        memory_(1 << 20, 3),
        log_file_(value_or_die(make_memfd("log", kLogBytes))),
        config_(place(memory_.make_ring(entries, guest))),
        driver_(make_driver(guest, entries)) {
    if (logs) config_.log = value_or_die(memory::DirtyLog::map(log_file_, 0, kLogBytes));
    for (std::uint16_t i = 0; i < entries; ++i) free_.push_back(memory_.allocate(std::uint64_t{kParts} * kBuffer));
    start(config_.start);
  }

  /// A chain of up to `readable` and `writable` parts; false when there is no room.
  bool send(std::uint32_t readable, std::uint32_t writable) {
    if (free_.empty()) return false;
    const memory::Iova at = free_.front();
    std::vector<DriverBuffer> parts;
    for (std::uint32_t i = 0; i < readable + writable; ++i) {
      parts.push_back(
          {.address = driver_address(memory::Iova(at.value() + std::uint64_t{i} * kBuffer)), .length = kBuffer - i});
    }
    const std::uint64_t token = next_token_;
    memory_.at(at, kBuffer).put(0, token);
    // Behind a chain that is read only lies the next one's buffer.
    if (writable != 0)
      memory_.at(memory::Iova(at.value() + std::uint64_t{readable} * kBuffer), 1).put(0, std::uint8_t{0});
    const std::span<const DriverBuffer> all(parts);
    if (!driver_.add(all.first(readable), all.subspan(readable), token)) return false;
    free_.pop_front();
    ++next_token_;
    driver_.publish();
    sent_[token] = {.at = at, .readable = readable, .writable = writable};
    return true;
  }

  void relay() { relay_->poll(); }

  void device_takes() {
    batch_.clear();
    device_->take(batch_, 8);
    for (const Chain& chain : batch_.chains()) {
      Held held{.chain = chain, .token = 0, .writable = {}};
      const auto readable = batch_.readable(chain);
      RC_ASSERT(!readable.empty());
      held.token = readable.front().fetch<std::uint64_t>(0);
      RC_ASSERT(sent_.contains(held.token));
      RC_ASSERT(chain.readable_bytes == bytes(0, sent_[held.token].readable));
      RC_ASSERT(chain.writable_bytes ==
                bytes(sent_[held.token].readable, sent_[held.token].readable + sent_[held.token].writable));
      const auto writable = batch_.writable(chain);
      held.writable.assign(writable.begin(), writable.end());
      held_.push_back(std::move(held));
    }
  }

  void device_uses(bool oldest) {
    if (held_.empty()) return;
    const auto in_order = oldest || device_features_.has(Feature::in_order);
    const auto which = in_order ? 0 : *rc::gen::inRange<std::size_t>(0, held_.size());
    const Held held = held_[which];
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(which));
    const std::uint32_t written = held.writable.empty() ? 0 : 1;
    if (written != 0) held.writable.front().put(0, static_cast<std::uint8_t>(held.token | 1));
    device_->use(held.chain, written);
    device_->publish();
  }

  void driver_reaps() {
    while (const auto used = driver_.reap()) {
      RC_ASSERT(sent_.contains(used->token));
      const Sent sent = sent_[used->token];
      sent_.erase(used->token);
      if (sent.writable != 0) {
        const memory::Iova answer(sent.at.value() + std::uint64_t{sent.readable} * kBuffer);
        RC_ASSERT(is_marked(answer));
        RC_ASSERT(memory_.at(answer, 1).fetch<std::uint8_t>(0) == static_cast<std::uint8_t>(used->token | 1));
        // Of a batch with IN_ORDER the driver is not told how much each has.
        RC_ASSERT(used->written == 1 || config_.features.has(Feature::in_order));
      }
      RC_ASSERT(is_marked(guest_address(config_.used)));
      RC_ASSERT(config_.layout() == virtio::Layout::split || is_marked(guest_address(config_.descriptors)));
      free_.push_back(sent.at);
    }
    RC_ASSERT(!driver_.is_broken());
  }

  /// The queue is moved: another relay goes on where this one says. What the device held is left to the next one.
  void restart(const std::function<void()>& meanwhile = {}) {
    if (config_.features.has(Feature::in_order)) {
      while (!held_.empty()) device_uses(true);
    }
    held_.clear();
    auto at = relay_->finish();
    if (meanwhile) meanwhile();
    start(std::move(at));
  }

  /// The IOMMU's owner answers the first `limit` of what is asked for.
  void answer(std::size_t limit) {
    if (!wait_) return;
    auto& misses = wait_->misses;
    const auto end = misses.begin() + static_cast<std::ptrdiff_t>(std::min(limit, misses.size()));
    for (const memory::Miss& miss : std::span(misses.begin(), end)) {
      learn(iotlb_, memory_, miss.at, kPage);
    }
    replace_maps();
  }
  /// Takes back `pages` from a page of the guest's memory on, as a port does.
  void invalidate(std::uint64_t first, std::uint64_t pages) {
    const memory::IovaRange range{.first = memory::Iova(GuestMemory::kBase + apart_ + first * kPage),
                                  .size = pages * kPage};
    const bool stops = relay_->uses(range);
    if (!stops) {
      iotlb_.invalidate(range);
      replace_maps();
      return;
    }
    restart([&] { iotlb_.invalidate(range); });
    RC_ASSERT(!relay_->uses(range) || virtio::RingAreas::overlap(config_, range));
  }
  /// Of the guest's memory that is in use.
  std::uint64_t pages() { return (memory_.allocate(0).value() - GuestMemory::kBase + kPage - 1) / kPage; }

  /// Until all that was sent has come back.
  void settle() {
    for (int i = 0; i < 10'000 && !sent_.empty(); ++i) {
      relay();
      answer(~std::size_t{0});
      device_takes();
      while (!held_.empty()) device_uses(true);
      relay();
      driver_reaps();
    }
    RC_ASSERT(sent_.empty());
  }

  std::optional<Error> fault;

 private:
  static constexpr std::uint32_t kParts = 12;
  struct Sent {
    memory::Iova at;
    std::uint32_t readable;
    std::uint32_t writable;
  };
  struct Held {
    Chain chain;
    std::uint64_t token;
    std::vector<memory::GuestSpan> writable;
  };

  memory::Iova driver_address(memory::Iova guest) const { return memory::Iova(guest.value() + apart_); }
  memory::Iova guest_address(memory::Iova driver) const { return memory::Iova(driver.value() - apart_); }
  virtio::RingConfig place(virtio::RingConfig ring) const {
    for (memory::Iova* area : {&ring.descriptors, &ring.available, &ring.used}) *area = driver_address(*area);
    return ring;
  }
  port::RelayMaps maps() const {
    if (apart_ == 0) return port::RelayMaps::untranslated(memory_.map());
    return {.driver = iotlb_.map(memory_.map()), .device = memory_.map()};
  }
  void replace_maps() {
    RC_ASSERT(relay_->replace_maps(maps()).has_value());
    RC_ASSERT(relay_->current_wait() == 0U);
    wait_.reset();
  }
  void learn_ring() {
    std::vector<memory::Miss> misses;
    RC_ASSERT(virtio::RingAreas::list_missing(config_, *maps().driver, misses));
    for (const memory::Miss& miss : misses) learn(iotlb_, memory_, miss.at, kPage);
  }
  void await(RelayQueue::Wait wait) {
    RC_ASSERT(!wait_.has_value());
    RC_ASSERT(wait.number == ++waits_);
    RC_ASSERT(!wait.misses.empty());
    wait_ = std::move(wait);
  }

  /// Where there is no log, all is well.
  bool is_marked(memory::Iova at) const {
    if (!config_.log) return true;
    const std::uint64_t page = at.value() / memory::DirtyLog::kPage;
    const auto mapping = value_or_die(Mapping::map(log_file_, 0, kLogBytes));
    const auto bits = memory::GuestSpan::over({mapping->data(), mapping->size()});
    return ((bits.fetch<std::uint8_t>(page / 8) >> (page % 8)) & 1) != 0;
  }

  static std::uint64_t bytes(std::uint32_t from, std::uint32_t to) {
    std::uint64_t sum = 0;
    for (std::uint32_t i = from; i < to; ++i) sum += kBuffer - i;
    return sum;
  }

  DriverQueue make_driver(FeatureSet guest, std::uint16_t entries) {
    std::optional<virtio::IndirectArea> tables;
    if (guest.has(Feature::indirect_desc))
      tables.emplace(driver_address(memory_.allocate(virtio::indirect_bytes(entries))));
    if (apart_ == 0) return value_or_die(DriverQueue::start(config_, memory_.map(), tables));
    memory::Iotlb all;
    for (const memory::Region& region : memory_.map()->regions()) {
      learn(all, memory_, driver_address(region.iova), region.size);
    }
    return value_or_die(DriverQueue::start(config_, all.map(memory_.map()), tables));
  }

  void start(virtio::QueueState at) {
    config_.start = std::move(at);
    relay_.reset();
    wait_.reset();
    waits_ = 0;
    if (apart_ != 0) learn_ring();
    shadow_.emplace(value_or_die(ShadowRing::make("shadow", device_features_, config_.size.entries(), kShadow)));
    auto regions = memory_.map()->regions();
    regions.push_back(shadow_->region);
    device_.emplace(
        value_or_die(DeviceQueue::start(shadow_->config, value_or_die(memory::MemoryMap::make(std::move(regions))))));
    relay_ = value_or_die(RelayQueue::start(
        {.ring = config_, .kick = {}, .call = {}}, maps(), *shadow_,
        {.event = value_or_die(KickFd::make()), .doorbell = {}, .queue = {}},
        [this](Error reason) { fault = std::move(reason); },
        [this](RelayQueue::Wait wait) { await(std::move(wait)); }));
  }

  FeatureSet device_features_;
  std::uint64_t apart_;
  memory::Iotlb iotlb_;
  std::optional<RelayQueue::Wait> wait_;
  std::uint64_t waits_ = 0;  // of this relay
  static constexpr std::uint64_t kLogBytes = (GuestMemory::kBase + (4 << 20)) / memory::DirtyLog::kPage / 8;
  GuestMemory memory_;
  OwnedFd log_file_;
  virtio::RingConfig config_;
  DriverQueue driver_;
  std::optional<ShadowRing> shadow_;
  std::optional<DeviceQueue> device_;
  std::unique_ptr<RelayQueue> relay_;
  ChainBatch batch_;
  std::deque<Held> held_;
  std::deque<memory::Iova> free_;
  std::map<std::uint64_t, Sent> sent_;
  std::uint64_t next_token_ = 1;
};

void run_some_time(std::uint64_t apart) {
  const auto guest = any_ring_features();
  const auto device = any_ring_features();
  const auto entries = static_cast<std::uint16_t>(1U << *rc::gen::inRange(2, 6));
  World world(guest, device, entries, *rc::gen::arbitrary<bool>(), apart);
  const auto steps = *rc::gen::inRange(1, 200);
  // The longest chain that both rings can hold, whoever has indirect tables.
  const auto longest = std::min<std::uint32_t>(entries, 12);
  for (int i = 0; i < steps; ++i) {
    switch (*rc::gen::inRange(0, apart == 0 ? 12 : 16)) {
      case 0:
      case 1:
      case 2: {
        const auto parts = *rc::gen::inRange<std::uint32_t>(1, longest + 1);
        const auto readable = *rc::gen::inRange<std::uint32_t>(1, parts + 1);
        world.send(readable, parts - readable);
        break;
      }
      case 3:
      case 4:
      case 5:
        world.relay();
        break;
      case 6:
      case 7:
        world.device_takes();
        break;
      case 8:
      case 9:
        world.device_uses(false);
        break;
      case 10:
        world.driver_reaps();
        break;
      case 12:
        world.invalidate(*rc::gen::inRange<std::uint64_t>(0, world.pages()), *rc::gen::inRange<std::uint64_t>(1, 8));
        break;
      case 13:
      case 14:
        world.answer(~std::size_t{0});
        break;
      case 15:
        world.answer(*rc::gen::inRange<std::size_t>(0, 4));
        break;
      default:
        if (*rc::gen::inRange(0, 4) == 0) world.restart();
    }
    RC_ASSERT(!world.fault);
  }
  world.settle();
}

RC_GTEST_PROP(RelayQueue, EveryChainComesBackOnceWhateverTheRingsAreLike, ()) {
  run_some_time(0);
}

RC_GTEST_PROP(RelayQueue, BehindAnIommuEveryChainComesBackOnceWhateverIsForgotten, ()) {
  run_some_time(kApart);
}

}  // namespace
}  // namespace causeway::testing

// The relay's queue between a driver side and a device side of our own: every chain comes back once, with what the
// device wrote, whatever layout and features either ring has; and what it makes of a hostile device.

#include "port/relay_queue.h"

#include "memory/iotlb.h"
#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <map>

#include "support/guest_memory.h"

namespace causeway::testing {
namespace {

using port::RelayQueue, port::ShadowRing;
using virtio::Chain, virtio::ChainBatch, virtio::DeviceQueue, virtio::DriverBuffer, virtio::DriverQueue;
using virtio::Feature, virtio::FeatureSet;

constexpr memory::Iova kShadow(0x7f'0000'0000);
constexpr std::uint32_t kBuffer = 256;
constexpr std::uint64_t kPage = memory::MemoryMap::kIommuPage;
constexpr std::uint64_t kApart = 0x3'0000'0000;  ///< behind an IOMMU: between the guest's and the driver's addresses

FeatureSet any_ring_features() {
  FeatureSet features;
  for (const auto feature : {Feature::ring_packed, Feature::indirect_desc, Feature::event_idx, Feature::in_order}) {
    if (*rc::gen::arbitrary<bool>()) features = features.with(feature);
  }
  return features;
}

/// What the driver's addresses from `first` on lead to: the guest's memory, kApart below.
void learn(memory::Iotlb& iotlb, const GuestMemory& memory, memory::Iova first, std::uint64_t size,
           memory::Access access = memory::Access::read_write) {
  const std::uint64_t offset = first.value() - kApart - GuestMemory::kBase;
  value_or_die(iotlb.update({.iova = first,
                             .size = size,
                             .frontend_va = memory::FrontendVa(GuestMemory::kFrontendBase + offset),
                             .access = access},
                            *memory.map()));
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
        log_(logs ? value_or_die(memory::DirtyLog::map(log_file_, 0, kLogBytes)) : nullptr),
        config_(place(memory_.make_ring(entries, guest))),
        driver_(make_driver(guest, entries)) {
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
    if (!log_) return true;
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
        {.ring = config_, .kick = {}, .call = {}}, maps(), log_, *shadow_,
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
  std::shared_ptr<const memory::DirtyLog> log_;
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

/// One chain with one writable byte has been passed on; then the device does what a test says.
struct HostileDevice : ::testing::TestWithParam<FeatureSet> {
  HostileDevice()
      : config(memory.make_ring(8, GetParam())),
        driver(value_or_die(DriverQueue::start(config, memory.map()))),
        shadow(value_or_die(ShadowRing::make("shadow", GetParam(), 8, kShadow))),
        device(value_or_die(DeviceQueue::start(shadow.config, everything()))),
        relay(value_or_die(RelayQueue::start(
            {.ring = config, .kick = {}, .call = {}}, port::RelayMaps::untranslated(memory.map()), nullptr, shadow,
            {.event = value_or_die(KickFd::make()), .doorbell = {}, .queue = {}}, [this](Error reason) {
              ++faults;
              fault = std::move(reason.what);
            }))) {
    const DriverBuffer buffer{.address = memory.allocate(1), .length = 1};
    EXPECT_TRUE(driver.add({}, {&buffer, 1}, 7));
    driver.publish();
    relay->poll();
    EXPECT_EQ(device.take(batch, 8), 1);
  }
  std::shared_ptr<const memory::MemoryMap> everything() const {
    auto regions = memory.map()->regions();
    regions.push_back(shadow.region);
    return value_or_die(memory::MemoryMap::make(std::move(regions)));
  }
  void expect_fault(std::string_view text) {
    device.publish();
    relay->poll();
    EXPECT_NE(fault.find(text), std::string::npos) << fault;
    EXPECT_FALSE(driver.reap()) << "the guest heard of it";
    relay->poll();
    EXPECT_FALSE(relay->arm());
    EXPECT_EQ(faults, 1U);
    // Another device can still do it.
    EXPECT_EQ(relay->finish(), config.start);
  }

  GuestMemory memory;
  virtio::RingConfig config;
  DriverQueue driver;
  ShadowRing shadow;
  DeviceQueue device;
  unsigned faults = 0;
  std::string fault;
  std::unique_ptr<RelayQueue> relay;
  ChainBatch batch;
};

TEST_P(HostileDevice, ThatWroteMoreThanThereIsRoomForIsNotBelieved) {
  device.use(batch[0], 2);
  expect_fault("wrote 2 bytes into a chain that has room for 1");
}

TEST_P(HostileDevice, ThatReturnsWhatItWasNotGivenIsNotBelieved) {
  Chain other = batch[0];
  other.id = static_cast<std::uint16_t>(other.id + 1);
  device.use(other, 1);
  expect_fault("a chain that it did not have");
}

TEST_P(HostileDevice, WhatItUsedBeforeItsFaultIsTheDrivers) {
  const DriverBuffer buffer{.address = memory.allocate(1), .length = 1};
  ASSERT_TRUE(driver.add({}, {&buffer, 1}, 8));
  driver.publish();
  relay->poll();
  ASSERT_EQ(device.take(batch, 8), 1);
  device.use(batch[0], 1);
  device.use(batch[1], 2);
  device.publish();
  relay->poll();
  EXPECT_EQ(faults, 1U);
  const auto used = driver.reap();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->token, 7U);
  EXPECT_FALSE(driver.reap());
  // Another device gets the other one, and nothing else.
  config.start = relay->finish();
  auto next = DeviceQueue::start(config, memory.map());
  ASSERT_TRUE(next) << next.error().text();
  batch.clear();
  ASSERT_EQ(next->take(batch, 8), 1);
  next->use(batch[0], 1);
  next->publish();
  const auto last = driver.reap();
  ASSERT_TRUE(last);
  EXPECT_EQ(last->token, 8U);
}

/// A packed ring has no index that could jump.
struct HostileSplitDevice : HostileDevice {};

TEST_P(HostileSplitDevice, ThatReturnsMoreThanThereIsIsNotBelieved) {
  const auto used = shadow.map->translate(shadow.config.used, 4);
  used->store<std::uint16_t>(virtio::kRingIndex, 5, std::memory_order_release);
  expect_fault("a chain that it did not have");
}

INSTANTIATE_TEST_SUITE_P(Layouts, HostileDevice, ::testing::Values(FeatureSet(), FeatureSet{Feature::ring_packed}),
                         [](const auto& layout) {
                           return layout.param.has(Feature::ring_packed) ? "Packed" : "Split";
                         });

INSTANTIATE_TEST_SUITE_P(Layouts, HostileSplitDevice, ::testing::Values(FeatureSet()));

TEST(RelayQueue, AChainTooLongForTheDeviceIsTheOneFault) {
  GuestMemory memory;
  const auto config = memory.make_ring(4, {Feature::indirect_desc});
  auto driver = value_or_die(
      DriverQueue::start(config, memory.map(), virtio::IndirectArea(memory.allocate(virtio::indirect_bytes(4)))));
  const auto shadow = value_or_die(ShadowRing::make("shadow", {}, 4, kShadow));
  std::vector<std::string> faults;
  const auto relay = value_or_die(
      RelayQueue::start({.ring = config, .kick = {}, .call = {}}, port::RelayMaps::untranslated(memory.map()), nullptr,
                        shadow, {.event = value_or_die(KickFd::make()), .doorbell = {}, .queue = {}},
                        [&](const Error& reason) { faults.push_back(reason.what); }));
  const std::vector<DriverBuffer> parts(5, {.address = memory.allocate(1), .length = 1});
  ASSERT_TRUE(driver.add(parts, {}, 1));
  driver.publish();
  // The driver's ring is wrong too, behind it.
  const auto available = memory.at(config.available, virtio::kRingEntries + 2 * 4);
  available.put(virtio::kRingEntries + 2, std::uint16_t{77});
  available.put(virtio::kRingIndex, std::uint16_t{2});
  relay->poll();
  EXPECT_EQ(faults, std::vector<std::string>{"a chain is too long for the device"});
}

/// The Device hears nothing of it, and the driver wants no call; a migration must know of the used entry all the same.
TEST(RelayQueue, AChainWithoutBytesIsUsedAndLogged) {
  constexpr std::uint64_t kLogBytes = (GuestMemory::kBase + (4 << 20)) / memory::DirtyLog::kPage / 8;
  GuestMemory memory;
  const OwnedFd log = value_or_die(make_memfd("log", kLogBytes));
  const auto bits = value_or_die(Mapping::map(log, 0, kLogBytes));
  const auto config = memory.make_ring(4);
  auto driver = value_or_die(DriverQueue::start(config, memory.map()));
  driver.disarm();
  const auto shadow = value_or_die(ShadowRing::make("shadow", {}, 4, kShadow));
  const auto relay = value_or_die(
      RelayQueue::start({.ring = config, .kick = {}, .call = {}}, port::RelayMaps::untranslated(memory.map()),
                        value_or_die(memory::DirtyLog::map(log, 0, kLogBytes)), shadow,
                        {.event = value_or_die(KickFd::make()), .doorbell = {}, .queue = {}},
                        [](const Error& reason) { FAIL() << reason.what; }));
  const auto word = GuestMemory::kBase / memory::DirtyLog::kPage / 8;
  memory::GuestSpan::over({bits->data(), bits->size()}).put(word, std::uint8_t{0});
  const DriverBuffer nothing{.address = memory.allocate(1), .length = 0};
  ASSERT_TRUE(driver.add({}, {&nothing, 1}, 1));
  driver.publish();
  while (relay->poll() != 0) {
  }
  EXPECT_TRUE(driver.reap());
  EXPECT_NE(memory::GuestSpan::over({bits->data(), bits->size()}).fetch<std::uint8_t>(word), 0);
}

/// A relay behind an IOMMU of which it knows the ring's page alone; the driver's buffers have a page each.
struct BehindIommu : ::testing::TestWithParam<FeatureSet> {
  BehindIommu()
      : ring(memory.make_ring(8, GetParam())),
        shadow(value_or_die(ShadowRing::make("shadow", GetParam(), 8, kShadow))) {
    for (memory::Iova* area : {&ring.descriptors, &ring.available, &ring.used}) {
      *area = memory::Iova(area->value() + kApart);
    }
    memory::Iotlb all;
    learn(all, memory, page(0).first, 1 << 20);
    driver.emplace(value_or_die(DriverQueue::start(ring, all.map(memory.map()))));
    learn(iotlb, memory, page(0).first, kPage);
    auto regions = memory.map()->regions();
    regions.push_back(shadow.region);
    device.emplace(
        value_or_die(DeviceQueue::start(shadow.config, value_or_die(memory::MemoryMap::make(std::move(regions))))));
    relay = value_or_die(RelayQueue::start(
        {.ring = ring, .kick = {}, .call = {}}, maps(), nullptr, shadow,
        {.event = value_or_die(KickFd::make()), .doorbell = {}, .queue = {}},
        [](const Error& reason) { ADD_FAILURE() << reason.what; },
        [this](RelayQueue::Wait wait) { waits.push_back(std::move(wait)); }));
  }
  static memory::IovaRange page(std::uint64_t n) {
    return {.first = memory::Iova(GuestMemory::kBase + kApart + n * kPage), .size = kPage};
  }
  port::RelayMaps maps() const { return {.driver = iotlb.map(memory.map()), .device = memory.map()}; }
  void send(std::uint64_t n) {
    const DriverBuffer buffer{.address = page(n).first, .length = 100};
    ASSERT_TRUE(driver->add({}, {&buffer, 1}, n));
    driver->publish();
    relay->poll();
  }
  void tell(std::uint64_t n) {
    learn(iotlb, memory, page(n).first, kPage);
    ASSERT_TRUE(relay->replace_maps(maps()));
    relay->poll();
  }
  static memory::Miss miss(std::uint64_t n) { return {.at = page(n).first, .access = memory::Access::write}; }

  GuestMemory memory;
  virtio::RingConfig ring;
  ShadowRing shadow;
  memory::Iotlb iotlb;
  std::optional<DriverQueue> driver;
  std::optional<DeviceQueue> device;
  std::unique_ptr<RelayQueue> relay;
  std::vector<RelayQueue::Wait> waits;
  ChainBatch batch;
};

TEST_P(BehindIommu, ItUsesItsRingAndWhatTheDeviceHas) {
  EXPECT_TRUE(relay->uses(page(0)));
  EXPECT_TRUE(relay->uses({.first = ring.used, .size = 1}));
  EXPECT_TRUE(relay->uses({.first = memory::Iova(0), .size = ~0ULL}));
  EXPECT_FALSE(relay->uses({.first = memory::Iova(0), .size = ring.descriptors.value()})) << "what lies before it";
  learn(iotlb, memory, page(5).first, kPage);
  ASSERT_TRUE(relay->replace_maps(maps()));
  EXPECT_FALSE(relay->uses(page(5))) << "known, and not used";
  send(5);
  EXPECT_TRUE(relay->uses(page(5)));
  EXPECT_TRUE(relay->uses({.first = memory::Iova(page(5).first.value() + 99), .size = 1}));
  EXPECT_FALSE(relay->uses({.first = memory::Iova(page(5).first.value() + 100), .size = 1}));
  EXPECT_FALSE(relay->uses(page(4)));
  ASSERT_EQ(device->take(batch, 8), 1);
  device->use(batch[0], 1);
  device->publish();
  EXPECT_TRUE(relay->uses(page(5))) << "the driver has not been told";
  relay->poll();
  EXPECT_FALSE(relay->uses(page(5)));
  EXPECT_TRUE(driver->reap());
}

TEST_P(BehindIommu, AWaitHasANumberAndEndsWithTheMaps) {
  send(5);
  ASSERT_EQ(waits.size(), 1U);
  EXPECT_EQ(waits[0].number, 1U);
  EXPECT_EQ(waits[0].misses, std::vector{miss(5)});
  EXPECT_EQ(relay->current_wait(), 1U);
  EXPECT_EQ(relay->missed(), 1U);
  EXPECT_FALSE(relay->arm()) << "it waits for no kick";
  send(6);
  EXPECT_EQ(waits.size(), 1U) << "nothing is taken while it waits";
  tell(7);
  ASSERT_EQ(waits.size(), 2U);
  EXPECT_EQ(waits[1].number, 2U);
  EXPECT_EQ(waits[1].misses, (std::vector{miss(5), miss(6)}));
  EXPECT_EQ(relay->current_wait(), 2U);
  tell(5);
  EXPECT_EQ(device->take(batch, 8), 1);
  EXPECT_EQ(relay->current_wait(), 3U);
  tell(6);
  EXPECT_EQ(device->take(batch, 8), 1);
  EXPECT_EQ(relay->current_wait(), 0U);
  EXPECT_EQ(relay->translated(), 2U);
}

TEST_P(BehindIommu, WhatTheDeviceHasUsedIsGivenBackDuringAWait) {
  learn(iotlb, memory, page(5).first, kPage);
  ASSERT_TRUE(relay->replace_maps(maps()));
  send(5);
  send(6);
  EXPECT_EQ(relay->current_wait(), 1U);
  ASSERT_EQ(device->take(batch, 8), 1);
  device->use(batch[0], 1);
  device->publish();
  relay->poll();
  EXPECT_TRUE(driver->reap());
  EXPECT_EQ(relay->current_wait(), 1U);
  const auto state = relay->finish();
  EXPECT_TRUE(state.in_flight.empty()) << "what waits was not taken";
}

INSTANTIATE_TEST_SUITE_P(Layouts, BehindIommu, ::testing::Values(FeatureSet(), FeatureSet{Feature::ring_packed}),
                         [](const auto& layout) {
                           return layout.param.has(Feature::ring_packed) ? "Packed" : "Split";
                         });

}  // namespace
}  // namespace causeway::testing

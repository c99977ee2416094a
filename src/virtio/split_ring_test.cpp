// Both sides of the split ring, and what a hostile driver can write into it.

#include "virtio/split_device_queue.h"
#include "virtio/split_driver_queue.h"

#include <gtest/gtest.h>

#include "support/guest_memory.h"

namespace causeway::virtio {
namespace {

using memory::Iova;
using testing::GuestMemory, testing::value_or_die;

constexpr FeatureSet kIndirect{Feature::indirect_desc};
constexpr FeatureSet kEventIdx{Feature::event_idx};

/// A device queue over a ring that the test writes by hand.
struct HandMadeRing {
  explicit HandMadeRing(std::uint32_t entries = 8, FeatureSet features = {})
      : config(memory.make_ring(entries, features)),
        buffer(memory.allocate(65536)),
        device(value_or_die(SplitDeviceQueue::start(config, memory.map()))) {}

  void describe(std::uint16_t index, Descriptor descriptor) const { table().put(16u * index, descriptor); }
  memory::GuestSpan table() const {
    return memory.at(config.descriptors, RingAreaSizes::of(Layout::split, config.size).descriptors.bytes);
  }
  memory::GuestSpan available() const {
    return memory.at(config.available, RingAreaSizes::of(Layout::split, config.size).available.bytes);
  }
  memory::GuestSpan used() const {
    return memory.at(config.used, RingAreaSizes::of(Layout::split, config.size).used.bytes);
  }
  /// Makes one head available.
  void offer(std::uint16_t head) {
    available().put<std::uint16_t>(kRingEntries + 2u * (avail_idx % config.size.entries()), head);
    available().put<std::uint16_t>(kRingIndex, ++avail_idx);
  }
  /// Offers chain 0 and says what the device makes of it.
  RingFault verdict() {
    offer(0);
    ChainBatch batch;
    const auto taken = device.take(batch, 32);
    EXPECT_EQ(taken, device.fault() == RingFault::none ? 1 : 0);
    return device.fault();
  }
  Descriptor good(std::uint16_t flags = 0, std::uint16_t next = 0) const {
    return {.address = buffer.value(), .length = 100, .flags = flags, .next = next};
  }

  GuestMemory memory;
  RingConfig config;
  Iova buffer;
  SplitDeviceQueue device;
  std::uint16_t avail_idx = 0;
};

TEST(QueueSize, IsAPowerOfTwoUpTo32768) {
  for (const std::uint32_t good : {1U, 2U, 256U, 32768U}) EXPECT_TRUE(QueueSize::split(good));
  for (const std::uint32_t bad : {0U, 3U, 255U, 65536U, 0x80000000U}) EXPECT_FALSE(QueueSize::split(bad)) << bad;
}

TEST(SplitDeviceQueue, RefusesAreasThatAreMisalignedOrOutsideMemory) {
  GuestMemory memory;
  const RingConfig good = memory.make_ring(8);
  const auto start = [&](auto change) {
    RingConfig config = good;
    change(config);
    return SplitDeviceQueue::start(config, memory.map()).has_value();
  };
  EXPECT_TRUE(start([](RingConfig&) {}));
  EXPECT_FALSE(start([](RingConfig& ring) { ring.descriptors = Iova(ring.descriptors.value() + 8); }));
  EXPECT_FALSE(start([](RingConfig& ring) { ring.available = Iova(ring.available.value() + 1); }));
  EXPECT_FALSE(start([](RingConfig& ring) { ring.used = Iova(ring.used.value() + 2); }));
  EXPECT_FALSE(start([](RingConfig& ring) { ring.used = Iova(0); }));
  EXPECT_FALSE(start([](RingConfig& ring) { ring.descriptors = Iova(~0ULL - 15); }));
}

TEST(SplitDeviceQueue, RefusesAPositionThatContradictsTheUsedIndex) {
  GuestMemory memory;
  RingConfig config = memory.make_ring(8);
  config.start.avail = 9;
  EXPECT_FALSE(SplitDeviceQueue::start(config, memory.map()));
  config.start.avail = 8;
  EXPECT_TRUE(SplitDeviceQueue::start(config, memory.map()));
}

TEST(SplitDeviceQueue, RefusesAnAvailableIndexThatJumps) {
  HandMadeRing ring;
  ring.available().put<std::uint16_t>(kRingIndex, 9);
  EXPECT_FALSE(ring.device.has_available());
  EXPECT_EQ(ring.device.fault(), RingFault::avail_index_jumped);
}

TEST(SplitDeviceQueue, RefusesAHeadBeyondTheTable) {
  HandMadeRing ring;
  ring.offer(8);
  ChainBatch batch;
  EXPECT_EQ(ring.device.take(batch, 32), 0);
  EXPECT_EQ(ring.device.fault(), RingFault::head_out_of_range);
}

TEST(SplitDeviceQueue, RefusesANextBeyondTheTable) {
  HandMadeRing ring;
  ring.describe(0, ring.good(kDescNext, 8));
  EXPECT_EQ(ring.verdict(), RingFault::next_out_of_range);
}

TEST(SplitDeviceQueue, EndsALoop) {
  HandMadeRing ring;
  ring.describe(0, ring.good(kDescNext, 1));
  ring.describe(1, ring.good(kDescNext, 0));
  EXPECT_EQ(ring.verdict(), RingFault::chain_too_long);
}

TEST(SplitDeviceQueue, RefusesBuffersThatEndBehindMemory) {
  HandMadeRing ring;
  Descriptor descriptor = ring.good();
  descriptor.length = 0xffffffff;
  ring.describe(0, descriptor);
  EXPECT_EQ(ring.verdict(), RingFault::outside_memory);
  HandMadeRing wrapping;
  wrapping.describe(0, {.address = ~0ULL - 4, .length = 100, .flags = 0, .next = 0});
  EXPECT_EQ(wrapping.verdict(), RingFault::outside_memory);
}

TEST(SplitDeviceQueue, RefusesReadableAfterWritable) {
  HandMadeRing ring;
  ring.describe(0, ring.good(kDescNext | kDescWrite, 1));
  ring.describe(1, ring.good());
  EXPECT_EQ(ring.verdict(), RingFault::readable_after_writable);
}

TEST(SplitDeviceQueue, RefusesAnIndirectTableThatWasNotNegotiatedOrHasABadLength) {
  HandMadeRing plain;
  plain.describe(0, {.address = plain.buffer.value(), .length = 16, .flags = kDescIndirect, .next = 0});
  EXPECT_EQ(plain.verdict(), RingFault::indirect_not_negotiated);
  for (const std::uint32_t length : {0U, 15U, 17U}) {
    HandMadeRing ring(8, kIndirect);
    ring.describe(0, {.address = ring.buffer.value(), .length = length, .flags = kDescIndirect, .next = 0});
    EXPECT_EQ(ring.verdict(), RingFault::indirect_bad_length) << length;
  }
}

TEST(SplitDeviceQueue, RefusesAnIndirectTableInsideAnIndirectTable) {
  HandMadeRing ring(8, kIndirect);
  ring.memory.at(ring.buffer, 16)
      .put(0, Descriptor{.address = ring.buffer.value(), .length = 16, .flags = kDescIndirect, .next = 0});
  ring.describe(0, {.address = ring.buffer.value(), .length = 16, .flags = kDescIndirect, .next = 0});
  EXPECT_EQ(ring.verdict(), RingFault::indirect_nested);
}

TEST(SplitDeviceQueue, TakesDirectDescriptorsFollowedByAnIndirectTable) {
  HandMadeRing ring(8, kIndirect);
  const Iova table = ring.memory.allocate(32);
  ring.memory.at(table, 32).put(0, ring.good(kDescNext, 1));
  ring.memory.at(table, 32).put(16, ring.good(kDescWrite));
  ring.describe(0, ring.good(kDescNext, 1));
  ring.describe(1, {.address = table.value(), .length = 32, .flags = kDescIndirect, .next = 0});
  ring.offer(0);
  ChainBatch batch;
  ASSERT_EQ(ring.device.take(batch, 32), 1);
  EXPECT_EQ(batch[0].readable_bytes, 200U);
  EXPECT_EQ(batch[0].writable_bytes, 100U);
}

TEST(SplitDeviceQueue, AfterAFaultTouchesTheRingNoMore) {
  HandMadeRing ring;
  ring.available().put<std::uint16_t>(kRingIndex, 100);
  EXPECT_FALSE(ring.device.has_available());
  ring.available().put<std::uint16_t>(kRingIndex, 1);
  EXPECT_FALSE(ring.device.has_available());
  EXPECT_FALSE(ring.device.arm());
}

TEST(SplitDeviceQueue, PutsBackWhatWasTakenLast) {
  HandMadeRing ring;
  for (std::uint16_t i = 0; i < 3; ++i) {
    ring.describe(i, ring.good());
    ring.offer(i);
  }
  ChainBatch batch;
  ASSERT_EQ(ring.device.take(batch, 32), 3);
  ring.device.untake(batch.chains().subspan(1));
  EXPECT_EQ(ring.device.state().avail, 1);
  batch.clear();
  ASSERT_EQ(ring.device.take(batch, 32), 2);
  EXPECT_EQ(batch[0].id, 1);
}

TEST(SplitDeviceQueue, CallsOnlyADriverThatWantsIt) {
  HandMadeRing ring;
  ring.device.use(Chain{}, 5);
  EXPECT_TRUE(ring.device.publish());
  EXPECT_EQ(ring.used().fetch<std::uint16_t>(kRingIndex), 1);
  EXPECT_EQ(ring.used().fetch<std::uint32_t>(kRingEntries + 4), 5U);
  ring.available().put<std::uint16_t>(kRingFlags, kAvailNoInterrupt);
  ring.device.use(Chain{}, 5);
  EXPECT_FALSE(ring.device.publish());
  EXPECT_FALSE(ring.device.publish()) << "nothing new";
}

TEST(SplitDeviceQueue, WithEventIdxCallsWhenTheEventIsPassed) {
  HandMadeRing ring(8, kEventIdx);
  ring.available().put<std::uint16_t>(kRingEntries + 16, 1);  // used_event: call when entry 1 has been used
  ring.device.use(Chain{}, 0);
  EXPECT_FALSE(ring.device.publish());
  ring.device.use(Chain{}, 0);
  EXPECT_TRUE(ring.device.publish());
}

TEST(SplitDeviceQueue, ArmsAndLooksAgain) {
  for (const FeatureSet features : {FeatureSet(), kEventIdx}) {
    HandMadeRing ring(8, features);
    ring.device.disarm();
    EXPECT_FALSE(ring.device.arm());
    EXPECT_EQ(ring.used().fetch<std::uint16_t>(kRingFlags), 0);
    ring.describe(0, ring.good());
    ring.offer(0);
    EXPECT_TRUE(ring.device.arm()) << "what came before the request is not missed";
  }
}

TEST(SplitDeviceQueue, GoesOnWithAnotherMapOnlyIfItsRingIsInIt) {
  HandMadeRing ring;
  EXPECT_FALSE(ring.device.replace_map(memory::MemoryMap::empty()));
  EXPECT_TRUE(ring.device.replace_map(ring.memory.map()));
}

TEST(SplitDriverQueue, RefusesIdsThatTheDeviceNeverHad) {
  for (const std::uint32_t id : {1U, 8U, 0xffffffffU}) {
    GuestMemory memory;
    const RingConfig config = memory.make_ring(8);
    auto driver = value_or_die(SplitDriverQueue::start(config, memory.map()));
    const DriverBuffer buffer{.address = memory.allocate(64), .length = 64};
    ASSERT_TRUE(driver.add({&buffer, 1}, {}, 42));
    driver.publish();
    const auto used = memory.at(config.used, RingAreaSizes::of(Layout::split, config.size).used.bytes);
    used.put<std::uint32_t>(kRingEntries, id);
    used.put<std::uint16_t>(kRingIndex, 1);
    EXPECT_FALSE(driver.reap());
    EXPECT_TRUE(driver.is_broken()) << id;
  }
}

TEST(SplitDriverQueue, RefusesMoreUsedThanWasAvailable) {
  GuestMemory memory;
  const RingConfig config = memory.make_ring(8);
  auto driver = value_or_die(SplitDriverQueue::start(config, memory.map()));
  memory.at(config.used, RingAreaSizes::of(Layout::split, config.size).used.bytes).put<std::uint16_t>(kRingIndex, 1);
  EXPECT_FALSE(driver.reap());
  EXPECT_TRUE(driver.is_broken());
}

TEST(Features, HaveTheStandardsNames) {
  EXPECT_EQ(feature_by_name(DeviceType::net, "mrg_rxbuf"), 15U);
  EXPECT_EQ(feature_by_name(DeviceType::net, "event_idx"), 29U);
  EXPECT_FALSE(feature_by_name(DeviceType::block, "mrg_rxbuf"));
  EXPECT_EQ(text(DeviceType::net, FeatureSet(1U << 15 | 1U << 4)), "bit4 mrg_rxbuf");
}

}  // namespace
}  // namespace causeway::virtio

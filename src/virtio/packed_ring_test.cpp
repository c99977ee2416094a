// Both sides of the packed ring, and what a hostile driver or device can write into it.

#include "virtio/packed_device_queue.h"
#include "virtio/packed_driver_queue.h"

#include <gtest/gtest.h>

#include "support/guest_memory.h"

namespace causeway::virtio {
namespace {

using memory::Iova;
using testing::GuestMemory, testing::value_or_die;

constexpr FeatureSet kPacked{Feature::ring_packed};
constexpr std::uint16_t kFirstLap = kDescAvail;  // a descriptor made available while the wrap counter is 1

/// A device queue over a ring that the test writes by hand.
struct HandMadeRing {
  explicit HandMadeRing(std::uint32_t entries = 5, FeatureSet features = {})
      : config(memory.make_ring(entries, kPacked | features)),
        buffer(memory.allocate(65536)),
        device(value_or_die(PackedDeviceQueue::start(config, memory.map(), Remember::in_flight))) {}

  void describe(std::uint16_t index, std::uint16_t flags, std::uint16_t id = 0) const {
    put(index, {.address = buffer.value(), .length = 100, .id = id, .flags = flags});
  }
  void put(std::uint16_t index, PackedDescriptor descriptor) const { table().put(16u * index, descriptor); }
  PackedDescriptor at(std::uint16_t index) const { return table().fetch<PackedDescriptor>(16u * index); }
  memory::GuestSpan table() const { return memory.at(config.descriptors, 16u * config.size.entries()); }
  RingFault verdict() {
    ChainBatch batch;
    device.take(batch, 32);
    return device.fault();
  }

  GuestMemory memory;
  RingConfig config;
  Iova buffer;
  PackedDeviceQueue device;
};

TEST(QueueSize, OfAPackedRingNeedBeNoPowerOfTwo) {
  for (const std::uint32_t good : {1U, 3U, 255U, 32768U}) EXPECT_TRUE(QueueSize::packed(good));
  for (const std::uint32_t bad : {0U, 32769U}) EXPECT_FALSE(QueueSize::packed(bad)) << bad;
}

TEST(PackedPosition, FlipsItsWrapCounterAtTheEndOfTheRing) {
  PackedPosition position(kWrapCounter | 3, 5);
  position.advance(3);
  EXPECT_EQ(position.encoded(), 1);
  position.retreat(3);
  EXPECT_EQ(position.encoded(), kWrapCounter | 3);
  position.advance(5);
  EXPECT_EQ(position.encoded(), 3);
  EXPECT_EQ(position.distance_from(PackedPosition(kWrapCounter | 3, 5)), 5U);
}

TEST(EventSuppressionOf, ADescriptorIsPassedOnceAlsoAcrossTheWrap) {
  const std::uint16_t entries = 5;
  const PackedPosition event(kWrapCounter | 4, entries);
  PackedPosition now(kWrapCounter | 4, entries);
  EXPECT_FALSE(EventSuppression::wants(EventSuppression::at(event), now, 2, entries, true));
  now.advance(2);
  EXPECT_TRUE(EventSuppression::wants(EventSuppression::at(event), now, 2, entries, true));
  now.advance(1);
  EXPECT_FALSE(EventSuppression::wants(EventSuppression::at(event), now, 1, entries, true));
  EXPECT_TRUE(EventSuppression::wants(EventSuppression::at(event), now, 1, entries, false)) << "not negotiated";
  EXPECT_FALSE(EventSuppression::wants(EventSuppression::kDisable, now, 1, entries, true));
}

TEST(PackedDeviceQueue, RefusesPositionsOutsideTheRingOrAtOddsWithWhatIsInFlight) {
  GuestMemory memory;
  const RingConfig good = memory.make_ring(5, kPacked);
  const auto start = [&](QueueState state) {
    RingConfig config = good;
    config.start = std::move(state);
    return PackedDeviceQueue::start(config, memory.map()).has_value();
  };
  EXPECT_TRUE(start({.avail = 4, .used = 4, .in_flight = {}}));
  EXPECT_FALSE(start({.avail = 5, .used = 5, .in_flight = {}}));
  EXPECT_FALSE(start({.avail = 4, .used = 3, .in_flight = {}}));
  EXPECT_TRUE(start({.avail = 4, .used = 3, .in_flight = {{.id = 7, .descriptors = {{}}}}}));
  EXPECT_FALSE(start({.avail = 4, .used = 3, .in_flight = {{.id = 7, .descriptors = {}}}}));
}

TEST(PackedDeviceQueue, TakesOnlyWhatIsAvailableInThisLap) {
  HandMadeRing ring;
  EXPECT_FALSE(ring.device.has_available()) << "zeros";
  ring.describe(0, kDescUsed);
  EXPECT_FALSE(ring.device.has_available()) << "of the next lap";
  ring.describe(0, kDescAvail | kDescUsed);
  EXPECT_FALSE(ring.device.has_available()) << "used";
  ring.describe(0, kFirstLap);
  EXPECT_TRUE(ring.device.has_available());
}

TEST(PackedDeviceQueue, UsesAChainAtItsFirstEntryWithTheIdOfItsLast) {
  HandMadeRing ring;
  ring.describe(0, kFirstLap | kDescNext, 1);
  ring.describe(1, kFirstLap | kDescWrite, 9);
  ChainBatch batch;
  ASSERT_EQ(ring.device.take(batch, 32), 1);
  EXPECT_EQ(batch[0].slots, 2);
  ring.device.use(batch[0], 60);
  EXPECT_EQ(ring.at(0).flags, kFirstLap | kDescNext) << "not visible before publish";
  EXPECT_TRUE(ring.device.publish());
  EXPECT_EQ(ring.at(0).id, 9);
  EXPECT_EQ(ring.at(0).length, 60U);
  EXPECT_EQ(ring.at(0).flags, kDescAvail | kDescUsed | kDescWrite);
  EXPECT_EQ(ring.device.state(), (QueueState{.avail = kWrapCounter | 2, .used = kWrapCounter | 2, .in_flight = {}}));
}

TEST(PackedDeviceQueue, RefusesAChainLongerThanTheRing) {
  HandMadeRing ring;
  for (std::uint16_t i = 0; i < 5; ++i) ring.describe(i, kFirstLap | kDescNext);
  EXPECT_EQ(ring.verdict(), RingFault::chain_too_long);
  EXPECT_FALSE(ring.device.has_available());
  EXPECT_FALSE(ring.device.arm());
}

TEST(PackedDeviceQueue, RefusesMoreThanTheRingHolds) {
  HandMadeRing ring;
  for (std::uint16_t i = 0; i < 5; ++i) ring.describe(i, kFirstLap, i);
  ChainBatch batch;
  ASSERT_EQ(ring.device.take(batch, 32), 5);
  ring.describe(0, kDescUsed);  // available in the second lap, though the device has not given it back
  EXPECT_EQ(ring.verdict(), RingFault::avail_index_jumped);
}

TEST(PackedDeviceQueue, RefusesWhatIsNoChain) {
  HandMadeRing outside;
  outside.put(0, {.address = 0x10, .length = 100, .id = 0, .flags = kFirstLap});
  EXPECT_EQ(outside.verdict(), RingFault::outside_memory);
  HandMadeRing mixed;
  mixed.describe(0, kFirstLap | kDescNext | kDescWrite);
  mixed.describe(1, kFirstLap);
  EXPECT_EQ(mixed.verdict(), RingFault::readable_after_writable);
  HandMadeRing plain;
  plain.describe(0, kFirstLap | kDescIndirect);
  EXPECT_EQ(plain.verdict(), RingFault::indirect_not_negotiated);
  HandMadeRing nested(5, {Feature::indirect_desc});
  nested.describe(0, kFirstLap | kDescIndirect | kDescNext);
  EXPECT_EQ(nested.verdict(), RingFault::indirect_nested);
  HandMadeRing odd(5, {Feature::indirect_desc});
  odd.put(0, {.address = odd.buffer.value(), .length = 17, .id = 0, .flags = kFirstLap | kDescIndirect});
  EXPECT_EQ(odd.verdict(), RingFault::indirect_bad_length);
  HandMadeRing huge(5, {Feature::indirect_desc});
  huge.put(0, {.address = huge.buffer.value(), .length = 16 * 2000, .id = 0, .flags = kFirstLap | kDescIndirect});
  EXPECT_EQ(huge.verdict(), RingFault::indirect_too_long);
}

TEST(PackedDeviceQueue, HandsOverWhatItHoldsEvenWhenTheRingHasChangedSince) {
  HandMadeRing ring;
  ring.describe(0, kFirstLap, 3);
  ChainBatch batch;
  ASSERT_EQ(ring.device.take(batch, 32), 1);
  RingConfig config = ring.config;
  config.start = ring.device.state(batch.chains());
  ring.put(0, {});
  auto next = value_or_die(PackedDeviceQueue::start(config, ring.memory.map()));
  batch.clear();
  ASSERT_EQ(next.take(batch, 32), 1);
  EXPECT_EQ(batch[0].id, 3);
  EXPECT_EQ(batch[0].readable_bytes, 100U);
}

TEST(PackedDriverQueue, RefusesIdsThatTheDeviceNeverHad) {
  for (const std::uint16_t id : std::initializer_list<std::uint16_t>{1, 5, 0xffff}) {
    GuestMemory memory;
    const RingConfig config = memory.make_ring(5, kPacked);
    auto driver = value_or_die(PackedDriverQueue::start(config, memory.map()));
    const DriverBuffer buffer{.address = memory.allocate(64), .length = 64};
    ASSERT_TRUE(driver.add({&buffer, 1}, {}, 42));
    driver.publish();
    memory.at(config.descriptors, 80)
        .put(0, PackedDescriptor{.address = 0, .length = 0, .id = id, .flags = kDescAvail | kDescUsed});
    EXPECT_FALSE(driver.reap());
    EXPECT_TRUE(driver.is_broken()) << id;
  }
}

TEST(PackedDriverQueue, TakesABatchThatIsNamedByItsLastChain) {
  GuestMemory memory;
  const RingConfig config = memory.make_ring(5, kPacked.with(Feature::in_order));
  auto driver = value_or_die(PackedDriverQueue::start(config, memory.map()));
  const DriverBuffer buffer{.address = memory.allocate(64), .length = 64};
  for (std::uint64_t token : {40U, 41U, 42U}) ASSERT_TRUE(driver.add({}, {&buffer, 1}, token));
  driver.publish();
  memory.at(config.descriptors, 80)
      .put(0, PackedDescriptor{.address = 0, .length = 7, .id = 2, .flags = kDescAvail | kDescUsed | kDescWrite});
  for (const auto& [token, written] : {std::pair{40U, 64U}, {41U, 64U}, {42U, 7U}}) {
    const auto used = driver.reap();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->token, token);
    EXPECT_EQ(used->written, written) << "of those before the last all is said to be written";
  }
  EXPECT_FALSE(driver.reap());
  EXPECT_EQ(driver.free_descriptors(), 5);
}

}  // namespace
}  // namespace causeway::virtio

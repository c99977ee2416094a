// The registers of a function, as a driver finds them; and what a driver that breaks the rules gets.
#include "virtio_pci/function.h"

#include "virtio_pci/capabilities.h"
#include "virtio_pci/fake_device_fixture.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <optional>

#include "support/guest_memory.h"

namespace causeway::virtio_pci::testing {
namespace {

using vfio::RegionIndex;

constexpr std::uint8_t kAcknowledged = 3;  // ACKNOWLEDGE and DRIVER
constexpr std::uint8_t kFeaturesOk = 8;
constexpr std::uint8_t kDriverOk = 4;
constexpr std::uint8_t kNeedsReset = 64;
constexpr std::uint64_t kIsr = 0x100;
constexpr std::uint64_t kRingState = 0x200;
constexpr std::uint64_t kDeviceConfig = 0x1000;
constexpr std::uint64_t kMsixTable = 0x8000;
constexpr std::uint64_t kVersion1 = 1ULL << 32;

struct FunctionTest : ::testing::Test {
  /// The place of a register of the common configuration.
  template <class T>
  T get(std::size_t offset) {
    return rig.get<T>(offset);
  }
  std::uint8_t status() { return get<std::uint8_t>(offsetof(CommonCfg, device_status)); }
  void set_status(std::uint8_t status) { rig.set(offsetof(CommonCfg, device_status), status); }
  void select(std::uint16_t queue) { rig.set(offsetof(CommonCfg, queue_select), queue); }
  void write_features(std::uint64_t bits) {
    for (std::uint32_t half = 0; half < 2; ++half) {
      rig.set(offsetof(CommonCfg, driver_feature_select), half);
      rig.set(offsetof(CommonCfg, driver_feature), static_cast<std::uint32_t>(bits >> (32 * half)));
    }
  }
  void negotiate(std::uint64_t bits = kVersion1) {
    for (const auto& region : memory.map()->regions()) ASSERT_TRUE(rig.function->dma_map(region));
    set_status(kAcknowledged);
    write_features(bits);
    set_status(kAcknowledged | kFeaturesOk);
    ASSERT_EQ(status(), kAcknowledged | kFeaturesOk);
  }
  void set_ring(std::uint16_t queue, const virtio::RingConfig& ring) {
    select(queue);
    rig.set(offsetof(CommonCfg, queue_size), ring.size.entries());
    rig.set(offsetof(CommonCfg, queue_desc), ring.descriptors.value());
    rig.set(offsetof(CommonCfg, queue_driver), ring.available.value());
    rig.set(offsetof(CommonCfg, queue_device), ring.used.value());
    rig.set(offsetof(CommonCfg, queue_enable), std::uint16_t{1});
  }
  void drive() { set_status(kAcknowledged | kFeaturesOk | kDriverOk); }
  void break_ring(const virtio::RingConfig& ring) {
    memory.at(ring.available, 4).store<std::uint16_t>(virtio::kRingIndex, 1000, std::memory_order_release);
    rig.device->work();
    loop.run_ready();
  }

  std::unique_ptr<Worker> worker = value_or_die(Worker::start({.name = "test", .polling = Polling::sleep, .cpu = {}}));
  Loop loop;
  FunctionRig rig{loop, *worker};
  causeway::testing::GuestMemory memory;
};

TEST_F(FunctionTest, FeaturesAreOfferedInWords) {
  const auto offered = rig.port->offered_features().with(virtio::Feature::ring_reset).bits();
  for (std::uint32_t half = 0; half < 4; ++half) {
    rig.set(offsetof(CommonCfg, device_feature_select), half);
    const auto expected = half < 2 ? static_cast<std::uint32_t>(offered >> (32 * half)) : 0;
    EXPECT_EQ(get<std::uint32_t>(offsetof(CommonCfg, device_feature)), expected) << half;
  }
}

TEST_F(FunctionTest, FeaturesOfTheDriverAreReadBackInWords) {
  write_features(0x8765'4321'1234'5678);
  rig.set(offsetof(CommonCfg, driver_feature_select), std::uint32_t{2});
  rig.set(offsetof(CommonCfg, driver_feature), std::uint32_t{1});
  EXPECT_EQ(get<std::uint32_t>(offsetof(CommonCfg, driver_feature)), 0U) << "there is no third word";
  rig.set(offsetof(CommonCfg, driver_feature_select), std::uint32_t{0});
  EXPECT_EQ(get<std::uint32_t>(offsetof(CommonCfg, driver_feature)), 0x1234'5678U);
  rig.set(offsetof(CommonCfg, driver_feature_select), std::uint32_t{1});
  EXPECT_EQ(get<std::uint32_t>(offsetof(CommonCfg, driver_feature)), 0x8765'4321U);
}

TEST_F(FunctionTest, FeaturesThatWereNotOfferedAreRefused) {
  set_status(kAcknowledged);
  write_features(kVersion1 | 1ULL << 60);
  set_status(kAcknowledged | kFeaturesOk);
  EXPECT_EQ(status(), kAcknowledged);
  write_features(kVersion1);
  set_status(kAcknowledged | kFeaturesOk);
  EXPECT_EQ(status(), kAcknowledged | kFeaturesOk);
  EXPECT_EQ(rig.device->features.bits(), kVersion1);
}

TEST_F(FunctionTest, AddressesAreWrittenInHalves) {
  select(1);
  for (const std::size_t at :
       {offsetof(CommonCfg, queue_desc), offsetof(CommonCfg, queue_driver), offsetof(CommonCfg, queue_device)}) {
    rig.set(at + 4, std::uint32_t{0x89ab'cdef});
    EXPECT_EQ(get<std::uint64_t>(at), 0x89ab'cdef'0000'0000U);
    rig.set(at, std::uint32_t{0x0123'4567});
    EXPECT_EQ(get<std::uint64_t>(at), 0x89ab'cdef'0123'4567U);
    EXPECT_EQ(get<std::uint32_t>(at + 4), 0x89ab'cdefU);
  }
  select(0);
  EXPECT_EQ(get<std::uint64_t>(offsetof(CommonCfg, queue_desc)), 0U) << "that is another queue's";
}

TEST_F(FunctionTest, AQueueThatIsNotThereReadsAsZeros) {
  EXPECT_EQ(get<std::uint16_t>(offsetof(CommonCfg, num_queues)), 3U);
  for (const std::uint16_t queue : {std::uint16_t{3}, std::uint16_t{0xffff}}) {
    select(queue);
    EXPECT_EQ(get<std::uint16_t>(offsetof(CommonCfg, queue_select)), queue);
    rig.set(offsetof(CommonCfg, queue_size), std::uint16_t{16});
    rig.set(offsetof(CommonCfg, queue_desc), std::uint64_t{16});
    rig.set(offsetof(CommonCfg, queue_enable), std::uint16_t{1});
    rig.set(offsetof(CommonCfg, queue_reset), std::uint16_t{1});
    rig.set(offsetof(CommonCfg, queue_msix_vector), std::uint16_t{1});
    EXPECT_EQ(get<std::uint16_t>(offsetof(CommonCfg, queue_size)), 0U);
    EXPECT_EQ(get<std::uint64_t>(offsetof(CommonCfg, queue_desc)), 0U);
    EXPECT_EQ(get<std::uint16_t>(offsetof(CommonCfg, queue_enable)), 0U);
    EXPECT_EQ(get<std::uint16_t>(offsetof(CommonCfg, queue_msix_vector)), kNoVector);
  }
}

TEST_F(FunctionTest, AVectorThatIsNotThereReadsBackAsNone) {
  const auto vectors = static_cast<std::uint16_t>(rig.function->info().vectors);
  for (const std::size_t at : {offsetof(CommonCfg, config_msix_vector), offsetof(CommonCfg, queue_msix_vector)}) {
    rig.set(at, static_cast<std::uint16_t>(vectors - 1));
    EXPECT_EQ(get<std::uint16_t>(at), vectors - 1);
    rig.set(at, vectors);
    EXPECT_EQ(get<std::uint16_t>(at), kNoVector);
  }
}

TEST_F(FunctionTest, ItsDoorbellsTakeAPageForEachQueueThatThereIs) {
  std::array<std::byte, 256> config{};
  ASSERT_TRUE(rig.function->read(RegionIndex::config, 0, config));
  const auto layout = parse_config_space(config, rig.function->info());
  ASSERT_TRUE(layout) << layout.error().text();
  EXPECT_EQ(layout->multiplier, page_size());
  EXPECT_EQ(layout->notify.bytes, (rig.port->info().queues + 1U) * page_size()) << "the control queue's, too";
}

TEST_F(FunctionTest, AnAccessOutsideARegionIsRefused) {
  std::array<std::byte, 4> bytes{};
  const auto error = [&](RegionIndex region, std::uint64_t offset) {
    const auto done = rig.function->read(region, offset, bytes);
    const auto written = rig.function->write(region, offset, bytes);
    EXPECT_EQ(done.has_value(), written.has_value());
    return done ? std::nullopt : std::optional(done.error().code);
  };
  for (const auto region : {RegionIndex::bar0, RegionIndex::bar2, RegionIndex::config}) {
    const std::uint64_t size = rig.function->info().region(region).size;
    EXPECT_EQ(error(region, size - 4), std::nullopt);
    for (const std::uint64_t offset : {size - 3, size, ~std::uint64_t{0}, ~std::uint64_t{3}}) {
      EXPECT_EQ(error(region, offset), Errc::invalid_value) << offset;
    }
  }
  EXPECT_EQ(error(RegionIndex::bar1, 0), Errc::invalid_value);
  EXPECT_EQ(error(RegionIndex::vga, 0), Errc::invalid_value);
}

TEST_F(FunctionTest, QueuesRunFromDriverOkOn) {
  negotiate();
  set_ring(0, memory.make_ring(64, virtio::FeatureSet(kVersion1)));
  EXPECT_FALSE(rig.device->runs(0));
  drive();
  EXPECT_TRUE(rig.device->runs(0));
  EXPECT_FALSE(rig.device->runs(1));
  set_ring(1, memory.make_ring(64, virtio::FeatureSet(kVersion1)));
  EXPECT_TRUE(rig.device->runs(1));
  rig.set(offsetof(CommonCfg, queue_size), std::uint16_t{128});
  EXPECT_EQ(get<std::uint16_t>(offsetof(CommonCfg, queue_size)), 64U) << "it runs with another";
  set_status(0);
  EXPECT_FALSE(rig.device->runs(0) || rig.device->runs(1));
  EXPECT_EQ(status(), 0U);
  EXPECT_EQ(rig.device->regions.size(), memory.map()->regions().size()) << "memory outlives a reset";
}

TEST_F(FunctionTest, ASecondDriverOkStartsNothingTwice) {
  negotiate();
  const auto ring = memory.make_ring(64, virtio::FeatureSet(kVersion1));
  set_ring(0, ring);
  drive();
  set_status(kAcknowledged | kFeaturesOk);
  drive();
  EXPECT_EQ(status() & kNeedsReset, 0);
  break_ring(ring);  // and the news of it is heard once
  EXPECT_NE(status() & kNeedsReset, 0);
}

TEST_F(FunctionTest, ABrokenRingNeedsAReset) {
  negotiate();
  const auto ring = memory.make_ring(64, virtio::FeatureSet(kVersion1));
  set_ring(0, ring);
  drive();
  const auto generation = get<std::uint8_t>(offsetof(CommonCfg, config_generation));
  break_ring(ring);
  EXPECT_NE(status() & kNeedsReset, 0);
  EXPECT_NE(get<std::uint8_t>(offsetof(CommonCfg, config_generation)), generation);
  drive();
  EXPECT_NE(status() & kNeedsReset, 0) << "only a reset mends it";
  set_status(0);
  EXPECT_EQ(status(), 0U);
}

TEST_F(FunctionTest, AQueueInNoMemoryNeedsAReset) {
  negotiate();
  auto ring = memory.make_ring(64, virtio::FeatureSet(kVersion1));
  ring.used = memory::Iova(0xffff'ffff'ffff'f000);
  set_ring(0, ring);
  drive();
  EXPECT_FALSE(rig.device->runs(0));
  EXPECT_NE(status() & kNeedsReset, 0);
}

TEST_F(FunctionTest, AQueueCanBeResetAlone) {
  negotiate(kVersion1 | 1ULL << 40);
  for (const std::uint16_t queue : {std::uint16_t{0}, std::uint16_t{1}}) {
    set_ring(queue, memory.make_ring(64, virtio::FeatureSet(kVersion1)));
  }
  drive();
  select(1);
  rig.set(offsetof(CommonCfg, queue_reset), std::uint16_t{1});
  EXPECT_EQ(get<std::uint16_t>(offsetof(CommonCfg, queue_reset)), 0U);
  EXPECT_EQ(get<std::uint16_t>(offsetof(CommonCfg, queue_enable)), 0U);
  EXPECT_EQ(get<std::uint16_t>(offsetof(CommonCfg, queue_size)), kFakeLargestRing);
  EXPECT_EQ(get<std::uint64_t>(offsetof(CommonCfg, queue_desc)), 0U);
  EXPECT_TRUE(rig.device->runs(0));
  EXPECT_FALSE(rig.device->runs(1));
  set_ring(1, memory.make_ring(16, virtio::FeatureSet(kVersion1)));
  EXPECT_TRUE(rig.device->runs(1));
  EXPECT_EQ(status() & kNeedsReset, 0);
}

TEST_F(FunctionTest, AChangeOfTheConfigurationIsTold) {
  ASSERT_TRUE(rig.function->enable_vectors(2));
  const auto event = value_or_die(EventFd::make());
  ASSERT_TRUE(rig.function->set_vector(1, &event.fd()));
  rig.set(offsetof(CommonCfg, config_msix_vector), std::uint16_t{1});
  const auto generation = get<std::uint8_t>(offsetof(CommonCfg, config_generation));
  EXPECT_EQ(rig.get<std::uint8_t>(kIsr), 0U);
  rig.device->observer->config_changed();
  EXPECT_TRUE(event.drain());
  EXPECT_EQ(get<std::uint8_t>(offsetof(CommonCfg, config_generation)), generation + 1);
  EXPECT_EQ(rig.get<std::uint8_t>(kIsr), kIsrConfig);
  EXPECT_EQ(rig.get<std::uint8_t>(kIsr), 0U) << "a read takes it back";
}

TEST_F(FunctionTest, VectorsReachTheQueuesThatHaveThem) {
  negotiate();
  ASSERT_TRUE(rig.function->enable_vectors(3));
  EXPECT_FALSE(rig.function->set_vector(3, nullptr));
  EXPECT_FALSE(rig.function->enable_vectors(rig.function->info().vectors + 1));
  set_ring(0, memory.make_ring(64, virtio::FeatureSet(kVersion1)));
  drive();
  const auto has_call = [&] { return value_or_die(rig.device->find(virtio::QueueIndex{0}))->call.has_value(); };
  EXPECT_FALSE(has_call());
  rig.set(offsetof(CommonCfg, queue_msix_vector), std::uint16_t{2});
  EXPECT_FALSE(has_call());
  const auto event = value_or_die(EventFd::make());
  ASSERT_TRUE(rig.function->set_vector(2, &event.fd()));
  EXPECT_TRUE(has_call());
  rig.set(offsetof(CommonCfg, queue_msix_vector), kNoVector);
  EXPECT_FALSE(has_call());
  rig.set(offsetof(CommonCfg, queue_msix_vector), std::uint16_t{2});
  EXPECT_TRUE(has_call());
  ASSERT_TRUE(rig.function->enable_vectors(0));
  EXPECT_FALSE(has_call());
}

TEST_F(FunctionTest, TheDevicesConfigurationIsPassedOn) {
  rig.set(kDeviceConfig + 2, std::uint16_t{0x1234});
  EXPECT_EQ(rig.device->config_bytes[2], std::byte{0x34});
  EXPECT_EQ(rig.get<std::uint16_t>(kDeviceConfig + 2), 0x1234U);
  EXPECT_EQ(rig.get<std::uint32_t>(kDeviceConfig + kFakeConfigBytes), 0U);
  rig.set(kDeviceConfig + kFakeConfigBytes - 1, std::uint32_t{0xffff'ffff});
  EXPECT_EQ(rig.get<std::uint32_t>(kDeviceConfig + kFakeConfigBytes - 1), 0xffU) << "what is inside";
  EXPECT_TRUE(rig.function->read(RegionIndex::bar0, kDeviceConfig, {})) << "and nothing is nothing";
}

TEST_F(FunctionTest, TheMsixTableIsKept) {
  rig.set(kMsixTable + 16, std::uint64_t{0x1122'3344'5566'7788});
  EXPECT_EQ(rig.get<std::uint64_t>(kMsixTable + 16), 0x1122'3344'5566'7788U);
  const std::uint64_t end = kMsixTable + rig.function->info().vectors * kMsixEntryBytes;
  rig.set(end, std::uint32_t{1});
  EXPECT_EQ(rig.get<std::uint32_t>(end), 0U);
}

TEST_F(FunctionTest, ABusResetEndsAllButMemory) {
  negotiate();
  ASSERT_TRUE(rig.function->enable_vectors(1));
  rig.set(kCommand, kCommandMemory, RegionIndex::config);
  set_ring(0, memory.make_ring(64, virtio::FeatureSet(kVersion1)));
  drive();
  ASSERT_TRUE(rig.function->reset());
  EXPECT_EQ(status(), 0U);
  EXPECT_FALSE(rig.device->runs(0));
  EXPECT_EQ(rig.get<std::uint16_t>(kCommand, RegionIndex::config), 0U);
  EXPECT_FALSE(rig.function->set_vector(0, nullptr));
  EXPECT_EQ(rig.device->regions.size(), memory.map()->regions().size());
}

TEST_F(FunctionTest, RecordsAreKeptOfRingsThatFit) {
  negotiate();
  const auto entries = [&](std::uint16_t wanted) {
    rig.set(kRingState + offsetof(RingStateCfg, record_entries), wanted);
    return rig.get<std::uint16_t>(kRingState + offsetof(RingStateCfg, record_entries));
  };
  EXPECT_EQ(entries(kFakeLargestRing), kFakeLargestRing);
  EXPECT_EQ(entries(2 * kFakeLargestRing), 0U);
  EXPECT_EQ(entries(48), 0U) << "a split ring is a power of two";
  EXPECT_EQ(entries(64), 64U);
  set_ring(0, memory.make_ring(64, virtio::FeatureSet(kVersion1)));
  drive();
  EXPECT_EQ(entries(128), 64U) << "a queue runs";
}

TEST_F(FunctionTest, AQueueStopsOnCommand) {
  negotiate();
  set_ring(0, memory.make_ring(64, virtio::FeatureSet(kVersion1)));
  drive();
  const auto stop = [&](std::uint16_t queue, std::uint16_t command) {
    rig.set(kRingState + offsetof(RingStateCfg, queue_select), queue);
    rig.set(kRingState + offsetof(RingStateCfg, queue_stop), command);
    return rig.get<std::uint16_t>(kRingState + offsetof(RingStateCfg, queue_stop));
  };
  EXPECT_EQ(stop(0, 7), kStopFailed) << "no such command";
  EXPECT_EQ(stop(3, kStopDrain), kStopFailed) << "no such queue";
  EXPECT_TRUE(rig.device->runs(0));
  EXPECT_EQ(stop(0, kStopLeave), 0U);
  EXPECT_FALSE(rig.device->runs(0));
  EXPECT_EQ(stop(0, kStopDrain), 0U) << "it has stopped already";
  select(0);
  rig.set(offsetof(CommonCfg, queue_enable), std::uint16_t{1});
  EXPECT_TRUE(rig.device->runs(0)) << "and may go on";
}

TEST(PlainFunction, HasNoRingState) {
  const auto worker = value_or_die(Worker::start({.name = "test", .polling = Polling::sleep, .cpu = {}}));
  Loop loop;
  FunctionRig chosen(loop, *worker, {}, {.ring_state = false});
  FunctionRig without_records(loop, *worker, {.records = false});
  for (FunctionRig* rig : {&chosen, &without_records}) {
    EXPECT_EQ(rig->get<std::uint64_t>(kRingState), 0U);
    rig->set(kRingState + offsetof(RingStateCfg, record_entries), std::uint16_t{64});
    EXPECT_EQ(rig->get<std::uint16_t>(kRingState), 0U);
    EXPECT_FALSE(value_or_die(parse_config_space(rig->config_space(), rig->function->info())).ring_state);
  }
}

TEST(Function, APortHasOneDriverSide) {
  const auto worker = value_or_die(Worker::start({.name = "test", .polling = Polling::sleep, .cpu = {}}));
  Loop loop;
  FunctionRig rig(loop, *worker);
  const auto second = Function::make(loop, *rig.port, *worker, {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::busy);
  rig.function.reset();
  EXPECT_TRUE(Function::make(loop, *rig.port, *worker, {}));
}

}  // namespace
}  // namespace causeway::virtio_pci::testing

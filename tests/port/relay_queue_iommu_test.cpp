// A relay behind an IOMMU: what it waits for, and what it says that it uses.

#include "port/relay_queue.h"
#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "support/translated_memory.h"

namespace causeway::testing {
namespace {

using port::RelayQueue, port::ShadowRing;
using virtio::ChainBatch, virtio::DeviceQueue, virtio::DriverBuffer, virtio::DriverQueue;
using virtio::Feature, virtio::FeatureSet;

constexpr memory::Iova kShadow(0x7f'0000'0000);

/// A relay behind an IOMMU of which it knows the ring's page alone; the driver's buffers have a page each.
struct BehindIommu : ::testing::TestWithParam<FeatureSet> {
  BehindIommu()
      : ring(testing::apart(memory.make_ring(8, GetParam()))),
        shadow(value_or_die(ShadowRing::make("shadow", GetParam(), 8, kShadow))) {
    memory::Iotlb all;
    learn(all, memory, page(0).first, 1 << 20);
    driver.emplace(value_or_die(DriverQueue::start(ring, all.map(memory.map()))));
    learn(iotlb, memory, page(0).first, kPage);
    auto regions = memory.map()->regions();
    regions.push_back(shadow.region);
    device.emplace(
        value_or_die(DeviceQueue::start(shadow.config, value_or_die(memory::MemoryMap::make(std::move(regions))))));
    relay = value_or_die(RelayQueue::start(
        {.ring = ring, .kick = {}, .call = {}}, maps(), shadow,
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

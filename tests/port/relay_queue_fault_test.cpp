// What a relay makes of a hostile device, and of chains that it cannot pass on.

#include "port/relay_queue.h"
#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "support/guest_memory.h"

namespace causeway::testing {
namespace {

using port::RelayQueue, port::ShadowRing;
using virtio::Chain, virtio::ChainBatch, virtio::DeviceQueue, virtio::DriverBuffer, virtio::DriverQueue;
using virtio::Feature, virtio::FeatureSet;

constexpr memory::Iova kShadow(0x7f'0000'0000);

/// One chain with one writable byte has been passed on; then the device does what a test says.
struct HostileDevice : ::testing::TestWithParam<FeatureSet> {
  HostileDevice()
      : config(memory.make_ring(8, GetParam())),
        driver(value_or_die(DriverQueue::start(config, memory.map()))),
        shadow(value_or_die(ShadowRing::make("shadow", GetParam(), 8, kShadow))),
        device(value_or_die(DeviceQueue::start(shadow.config, everything()))),
        relay(value_or_die(RelayQueue::start(
            {.ring = config, .kick = {}, .call = {}}, port::RelayMaps::untranslated(memory.map()), shadow,
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
      RelayQueue::start({.ring = config, .kick = {}, .call = {}}, port::RelayMaps::untranslated(memory.map()), shadow,
                        {.event = value_or_die(KickFd::make()), .doorbell = {}, .queue = {}},
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
  auto config = memory.make_ring(4);
  config.log = value_or_die(memory::DirtyLog::map(log, 0, kLogBytes));
  auto driver = value_or_die(DriverQueue::start(config, memory.map()));
  driver.disarm();
  const auto shadow = value_or_die(ShadowRing::make("shadow", {}, 4, kShadow));
  const auto relay = value_or_die(
      RelayQueue::start({.ring = config, .kick = {}, .call = {}}, port::RelayMaps::untranslated(memory.map()), shadow,
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

}  // namespace
}  // namespace causeway::testing

#include "daemon/migration_check.h"

#include "virtio/blk.h"
#include "virtio/net.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>
#include <vector>

namespace causeway::daemon {
namespace {

namespace api = control::v1;
using ::testing::HasSubstr;
using virtio::BlkFeature;
using virtio::DeviceType;
using virtio::Feature;
using virtio::FeatureSet;
using virtio::NetFeature;

constexpr FeatureSet kFeatures = FeatureSet{Feature::version_1, Feature::ring_packed} | FeatureSet{NetFeature::mtu};

std::vector<std::byte> space_with_mtu(std::uint16_t mtu) {
  const virtio::NetConfig nic{.mac = {},
                              .status = 0,
                              .max_virtqueue_pairs = 2,
                              .mtu = mtu,
                              .speed = 0,
                              .duplex = 0,
                              .rss_max_key_size = 0,
                              .rss_max_indirection_table_length = 0,
                              .supported_hash_types = 0};
  const auto bytes = std::as_bytes(std::span(&nic, 1));
  return {bytes.begin(), bytes.end()};
}

/// A guest with two pairs of rings of 256 entries.
api::GuestNeeds some_needs() {
  api::GuestNeeds needs;
  needs.set_device_type("net");
  needs.set_has_guest(true);
  needs.set_features(kFeatures.bits());
  for (std::uint32_t i = 0; i < 4; ++i) {
    auto& queue = *needs.add_queues();
    queue.set_index(i);
    queue.set_size(256);
  }
  const auto space = space_with_mtu(1500);
  needs.set_config(space.data(), space.size());
  needs.set_memory_regions(2);
  return needs;
}

/// A port that just has what is needed.
MigrationTarget some_target() {
  MigrationTarget target;
  target.name = "net0";
  target.offered = kFeatures;
  target.queues = 4;
  target.largest_ring = 256;
  target.config = space_with_mtu(1500);
  target.memory_slots = 2;
  return target;
}

std::string obstacle(const api::GuestNeeds& needs, const MigrationTarget& target) {
  const auto found = first_obstacle(needs, target);
  return found ? *found : "error: " + found.error().text();
}

TEST(MigrationCheck, WhatIsNeededIsEnough) {
  EXPECT_EQ(obstacle(some_needs(), some_target()), "");
}

TEST(MigrationCheck, APortThatDoesNotServe) {
  auto target = some_target();
  target.refused = "its record is damaged";
  EXPECT_EQ(obstacle(some_needs(), target), "port net0 there does not serve: its record is damaged");
}

TEST(MigrationCheck, APortThatIsAFunction) {
  auto target = some_target();
  target.is_vhost_user = false;
  EXPECT_THAT(obstacle(some_needs(), target), HasSubstr("port net0 there is served as vfio-user"));
}

TEST(MigrationCheck, APortThatHasAGuest) {
  auto target = some_target();
  target.has_guest = true;
  EXPECT_THAT(obstacle(some_needs(), target), HasSubstr("port net0 there has a running guest already"));
}

TEST(MigrationCheck, APortNoneOfWhoseDevicesWork) {
  auto target = some_target();
  target.unusable = "dpdk0: its back-end has gone";
  EXPECT_EQ(obstacle(some_needs(), target),
            "no device of port net0 there can work a queue now: dpdk0: its back-end has gone");
}

TEST(MigrationCheck, AnotherTypeOfDevice) {
  auto target = some_target();
  target.type = DeviceType::block;
  EXPECT_EQ(obstacle(some_needs(), target), "the device is net here and blk there: name another port with --as");
}

TEST(MigrationCheck, AFeatureThatIsNotOfferedIsNamed) {
  auto target = some_target();
  target.offered = kFeatures.without(Feature::ring_packed).with(Feature::event_idx);
  EXPECT_THAT(obstacle(some_needs(), target),
              HasSubstr("the guest uses ring_packed, which port net0 there does not offer: see `features-off`"));
  auto needs = some_needs();
  needs.set_has_guest(false);
  EXPECT_THAT(obstacle(needs, target), HasSubstr("a guest here could use ring_packed, which port net0"));
  needs.set_features(kFeatures.bits() | 1ULL << 49);
  EXPECT_THAT(obstacle(needs, some_target()), HasSubstr("could use bit49, which"));
}

TEST(MigrationCheck, FewerQueues) {
  auto target = some_target();
  target.queues = 2;
  EXPECT_EQ(obstacle(some_needs(), target),
            "the guest uses queue 2, and port net0 there has 2 queues, from 0: raise `queue-pairs` there");
  auto needs = some_needs();
  needs.clear_queues();
  EXPECT_EQ(obstacle(needs, target), "");
  auto& control = *needs.add_queues();
  control.set_index(4);
  control.set_size(64);
  control.set_is_control(true);
  EXPECT_EQ(obstacle(needs, target), "");
}

TEST(MigrationCheck, ASmallerLargestRing) {
  auto needs = some_needs();
  needs.mutable_queues(3)->set_size(1024);
  EXPECT_EQ(
      obstacle(needs, some_target()),
      "the guest uses a ring of 1024 entries (queue 3), and port net0 there takes 256 at most: raise `queue-size` "
      "there");
}

TEST(MigrationCheck, AnotherConfigurationSpace) {
  auto target = some_target();
  target.config = space_with_mtu(1400);
  EXPECT_THAT(obstacle(some_needs(), target), HasSubstr("mtu of the configuration space is 1500 here and 1400 there"));
}

TEST(MigrationCheck, TooFewMemorySlots) {
  auto needs = some_needs();
  needs.set_memory_regions(3);
  EXPECT_EQ(obstacle(needs, some_target()), "the guest's memory has 3 regions, and port net0 there takes 2 at most");
}

TEST(MigrationCheck, ARecordOfRequestsInFlightThatIsNotKept) {
  auto needs = some_needs();
  needs.set_in_flight(true);
  EXPECT_EQ(obstacle(needs, some_target()), "");
  auto target = some_target();
  target.records_in_flight = false;
  EXPECT_THAT(obstacle(needs, target), HasSubstr("a record of requests in flight"));
}

TEST(MigrationCheck, ADiskThatCanOnlyBeReadThere) {
  auto needs = some_needs();
  needs.set_device_type("blk");
  needs.set_features(0);
  const virtio::BlkConfig disk{};
  needs.set_config(&disk, sizeof disk);
  auto target = some_target();
  target.type = DeviceType::block;
  target.offered = FeatureSet{BlkFeature::ro};
  target.config.assign(sizeof disk, std::byte{0});
  EXPECT_THAT(obstacle(needs, target), HasSubstr("the disk can be written here and only read there"));
  needs.set_features(FeatureSet{BlkFeature::ro}.bits());
  EXPECT_EQ(obstacle(needs, target), "");
  target.offered = {};
  EXPECT_THAT(obstacle(needs, target), HasSubstr("the guest uses ro, which"));
}

TEST(MigrationCheck, NeedsThatMakeNoSenseAreAnError) {
  EXPECT_EQ(obstacle({}, some_target()), "error: the needs are of a device ''; expected net or blk");
  auto needs = some_needs();
  needs.clear_config();
  EXPECT_EQ(obstacle(needs, some_target()), "the configuration space has 0 bytes here, which does not reach mtu");
  needs = some_needs();
  needs.mutable_queues(0)->set_index(UINT32_MAX);
  needs.mutable_queues(0)->set_size(UINT32_MAX);
  EXPECT_THAT(obstacle(needs, some_target()), HasSubstr("queue 4294967295"));
}

}  // namespace
}  // namespace causeway::daemon

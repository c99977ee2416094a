#include "daemon/config_space_check.h"

#include "virtio/blk.h"
#include "virtio/net.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace causeway::daemon {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using virtio::BlkConfig;
using virtio::BlkFeature;
using virtio::DeviceType;
using virtio::FeatureSet;
using virtio::NetConfig;
using virtio::NetFeature;

NetConfig some_nic() {
  return {.mac = {0x52, 0x54, 0, 0, 0, 1},
          .status = 1,
          .max_virtqueue_pairs = 2,
          .mtu = 1500,
          .speed = 10000,
          .duplex = 1,
          .rss_max_key_size = 40,
          .rss_max_indirection_table_length = 128,
          .supported_hash_types = 0x1ff};
}

BlkConfig some_disk() {
  BlkConfig disk{};
  disk.capacity = 2048;
  disk.size_max = 4096;
  disk.seg_max = 126;
  disk.blk_size = 512;
  disk.num_queues = 2;
  disk.max_discard_sectors = 100;
  disk.max_discard_seg = 1;
  disk.max_write_zeroes_sectors = 100;
  disk.max_write_zeroes_seg = 1;
  disk.write_zeroes_may_unmap = 1;
  return disk;
}

std::string obstacle(FeatureSet features, const NetConfig& here, const NetConfig& there) {
  return config_space_obstacle(DeviceType::net, features, std::as_bytes(std::span(&here, 1)),
                               std::as_bytes(std::span(&there, 1)));
}

std::string obstacle(FeatureSet features, const BlkConfig& here, const BlkConfig& there) {
  return config_space_obstacle(DeviceType::block, features, std::as_bytes(std::span(&here, 1)),
                               std::as_bytes(std::span(&there, 1)));
}

/// The same, but for what `change` does to the one there.
template <class Space, class Change>
std::string with(FeatureSet features, const Space& here, Change change) {
  Space there = here;
  change(there);
  return obstacle(features, here, there);
}

constexpr FeatureSet kEveryFeature(~0ULL);

TEST(ConfigSpaceCheck, TheSameIsNoObstacle) {
  EXPECT_EQ(obstacle(kEveryFeature, some_nic(), some_nic()), "");
  EXPECT_EQ(obstacle(kEveryFeature, some_disk(), some_disk()), "");
}

TEST(ConfigSpaceCheck, TheMacIsTheSameWhereTheDriverHasReadIt) {
  const auto other = [](NetConfig& there) { there.mac[5] = 2; };
  EXPECT_EQ(with({NetFeature::mac}, some_nic(), other),
            "mac of the configuration space is 52:54:00:00:00:01 here and 52:54:00:00:00:02 there: give both ports the "
            "same `mac`");
  EXPECT_EQ(with({}, some_nic(), other), "");
}

TEST(ConfigSpaceCheck, TheMtuIsNoSmaller) {
  const auto at = [](std::uint16_t mtu) { return [mtu](NetConfig& there) { there.mtu = mtu; }; };
  EXPECT_THAT(with({NetFeature::mtu}, some_nic(), at(1400)),
              HasSubstr("mtu of the configuration space is 1500 here and 1400 there"));
  EXPECT_EQ(with({NetFeature::mtu}, some_nic(), at(9000)), "");
  EXPECT_EQ(with({}, some_nic(), at(1400)), "");
}

TEST(ConfigSpaceCheck, PairsAreNoFewerAndTheSameWithAControlQueueBehindThem) {
  const auto at = [](std::uint16_t pairs) { return [pairs](NetConfig& there) { there.max_virtqueue_pairs = pairs; }; };
  EXPECT_THAT(with({NetFeature::mq}, some_nic(), at(1)),
              HasSubstr("max_virtqueue_pairs of the configuration space is 2 here and 1 there"));
  EXPECT_EQ(with({NetFeature::mq}, some_nic(), at(4)), "");
  EXPECT_THAT(with({NetFeature::mq, NetFeature::ctrl_vq}, some_nic(), at(4)), HasSubstr("2 here and 4 there"));
  EXPECT_EQ(with({NetFeature::ctrl_vq}, some_nic(), at(4)), "");
}

TEST(ConfigSpaceCheck, WhatIsHashedIsHashedThereToo) {
  const auto fewer = [](NetConfig& there) { there.supported_hash_types = 0x3f; };
  EXPECT_THAT(with({NetFeature::hash_report}, some_nic(), fewer),
              HasSubstr("supported_hash_types of the configuration space is 0x1ff here and 0x3f there"));
  EXPECT_THAT(with({NetFeature::rss}, some_nic(), [](NetConfig& there) { there.rss_max_key_size = 39; }),
              HasSubstr("rss_max_key_size"));
  EXPECT_THAT(with({NetFeature::rss}, some_nic(), [](NetConfig& there) { there.rss_max_indirection_table_length = 1; }),
              HasSubstr("rss_max_indirection_table_length"));
}

TEST(ConfigSpaceCheck, TheLinkMayBeAnother) {
  EXPECT_EQ(
      with(kEveryFeature, some_nic(), [](NetConfig& there) { there.status = 0, there.speed = 1, there.duplex = 0; }),
      "");
}

TEST(ConfigSpaceCheck, TheCapacityIsTheSameWhateverIsNegotiated) {
  for (const std::uint64_t capacity : {2047ULL, 2049ULL}) {
    EXPECT_THAT(with({}, some_disk(), [capacity](BlkConfig& there) { there.capacity = capacity; }),
                AllOf(HasSubstr("capacity of the configuration space is 2048 here and"), HasSubstr("the same image")));
  }
}

TEST(ConfigSpaceCheck, LimitsOfADiskAreNoSmallerWhereTheirFeatureIsNegotiated) {
  struct Case {
    BlkFeature feature;
    std::string name;
    void (*change)(BlkConfig& there);
  };
  const Case cases[] = {
      {BlkFeature::size_max, "size_max", [](BlkConfig& there) { --there.size_max; }},
      {BlkFeature::seg_max, "seg_max", [](BlkConfig& there) { --there.seg_max; }},
      {BlkFeature::blk_size, "blk_size", [](BlkConfig& there) { there.blk_size = 4096; }},
      {BlkFeature::mq, "num_queues", [](BlkConfig& there) { --there.num_queues; }},
      {BlkFeature::discard, "max_discard_sectors", [](BlkConfig& there) { --there.max_discard_sectors; }},
      {BlkFeature::discard, "max_discard_seg", [](BlkConfig& there) { --there.max_discard_seg; }},
      {BlkFeature::write_zeroes, "max_write_zeroes_sectors",
       [](BlkConfig& there) { --there.max_write_zeroes_sectors; }},
      {BlkFeature::write_zeroes, "max_write_zeroes_seg", [](BlkConfig& there) { --there.max_write_zeroes_seg; }},
      {BlkFeature::write_zeroes, "write_zeroes_may_unmap", [](BlkConfig& there) { --there.write_zeroes_may_unmap; }},
  };
  for (const Case& one : cases) {
    EXPECT_THAT(with({one.feature}, some_disk(), one.change), HasSubstr(one.name + " of the configuration space is"));
    EXPECT_EQ(with({}, some_disk(), one.change), "") << one.name;
  }
  EXPECT_EQ(with(kEveryFeature, some_disk(), [](BlkConfig& there) { ++there.seg_max; }), "");
}

TEST(ConfigSpaceCheck, ASpaceThatIsTooShortIsAnObstacleWhereItMatters) {
  const NetConfig nic = some_nic();
  const auto whole = std::as_bytes(std::span(&nic, 1));
  EXPECT_EQ(config_space_obstacle(DeviceType::net, {NetFeature::mtu}, whole.first(11), whole),
            "the configuration space has 11 bytes here, which does not reach mtu");
  EXPECT_EQ(config_space_obstacle(DeviceType::net, {NetFeature::mtu}, whole, whole.first(0)),
            "the configuration space has 0 bytes there, which does not reach mtu");
  EXPECT_EQ(config_space_obstacle(DeviceType::net, {NetFeature::mtu}, whole.first(12), whole), "");
  EXPECT_EQ(config_space_obstacle(DeviceType::net, {}, {}, {}), "");
  EXPECT_THAT(config_space_obstacle(DeviceType::block, {}, {}, {}), HasSubstr("does not reach capacity"));
}

TEST(ConfigSpaceCheck, TakesAnyBytes) {
  std::minstd_rand random(1);
  for (int round = 0; round < 10000; ++round) {
    std::vector<std::byte> here(random() % 120);
    std::vector<std::byte> there(random() % 120);
    for (auto& byte : here) byte = static_cast<std::byte>(random());
    for (auto& byte : there) byte = static_cast<std::byte>(random());
    const FeatureSet features((std::uint64_t{random()} << 32) | random());
    for (const DeviceType type : {DeviceType::net, DeviceType::block}) {
      EXPECT_THAT(config_space_obstacle(type, features, here, here),
                  testing::AnyOf(IsEmpty(), HasSubstr("does not reach")));
      (void)config_space_obstacle(type, features, here, there);
    }
  }
}

}  // namespace
}  // namespace causeway::daemon

// A disk's port whose process dies while the front-end keeps no record of what is in flight: the port's own does.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "blk/disk_rig.h"
#include "blk/ram_store.h"
#include "support/temporary_directory.h"

namespace causeway::testing {
namespace {

using ::testing::IsEmpty;
using virtio::BlkFeature;
using virtio::BlkRequestType;
using virtio::BlkStatus;
using virtio::Feature, virtio::FeatureSet;

constexpr std::uint64_t kDisk = 1 << 20;

struct BlkStateTest : ::testing::TestWithParam<FeatureSet> {
  BlkStateTest()
      : rig(store, {.driver = {.features = GetParam().with(BlkFeature::flush).with(BlkFeature::config_wce),
                               .queues = 2,
                               .ring_size = 16},
                    .state = value_or_die(port::StateDirectory::open(directory.path()))}) {}

  /// The process of the port dies and is started again.
  void restart() {
    rig.port.reset();
    rig.config.state.reset();
    rig.config.state = value_or_die(port::StateDirectory::open(directory.path()));
    rig.make_port();
    if (auto record = value_or_die(port::load_record(*rig.config.state, "disk0"))) {
      const auto restored = rig.port->restore(std::move(*record));
      ASSERT_TRUE(restored) << restored.error().text();
    }
    const auto moved = rig.driver->move_to(*rig.port);
    ASSERT_TRUE(moved) << moved.error().text();
  }

  TemporaryDirectory directory;
  std::shared_ptr<blk::Store> store = value_or_die(blk::RamStore::make(kDisk));
  DiskRig rig;
};

TEST_P(BlkStateTest, EveryRequestIsDoneOnceOverManyRestarts) {
  for (std::uint64_t round = 0; round < 40; ++round) {
    for (std::uint16_t queue = 0; queue < 2; ++queue) {
      for (std::uint64_t i = 0; i < 1 + round % 4; ++i) {
        const std::uint64_t sector = 8 * (2 * i + queue);
        const auto token = rig.driver->submit(
            queue, {.type = BlkRequestType::out, .sector = sector, .data = pattern(512, static_cast<unsigned>(round))});
        ASSERT_TRUE(token);
      }
    }
    restart();
    for (std::uint16_t queue = 0; queue < 2; ++queue) {
      for (std::uint64_t i = 0; i < 1 + round % 4; ++i) {
        ASSERT_EQ(rig.driver->await(queue).status, BlkStatus::ok);
      }
      ASSERT_FALSE(rig.driver->reap(queue)) << "a request was used twice";
      ASSERT_EQ(
          rig.driver->run(queue, {.type = BlkRequestType::in, .sector = 8U * queue, .data = {}, .answer_bytes = 512})
              .data,
          pattern(512, static_cast<unsigned>(round)));
    }
    EXPECT_THAT(rig.port->report().differences, IsEmpty());
  }
}

TEST_P(BlkStateTest, WhatTheDriverWroteIntoTheConfigurationIsThereAgain) {
  constexpr std::uint32_t kWriteback = offsetof(virtio::BlkConfig, writeback);
  const std::byte through{0};
  ASSERT_TRUE(rig.port->write_config(kWriteback, std::span(&through, 1)));
  restart();
  std::byte now{9};
  ASSERT_TRUE(rig.port->read_config(kWriteback, std::span(&now, 1)));
  EXPECT_EQ(now, through);
}

INSTANTIATE_TEST_SUITE_P(Layouts, BlkStateTest, ::testing::Values(FeatureSet(), FeatureSet{Feature::ring_packed}),
                         [](const auto& layout) {
                           return layout.param.has(Feature::ring_packed) ? "Packed" : "Split";
                         });

}  // namespace
}  // namespace causeway::testing

// A disk whose first Device is an accelerator that fails: each request is done once.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "blk/disk_rig.h"
#include "blk/ram_store.h"
#include "support/accelerator.h"

namespace causeway::testing {
namespace {

using virtio::BlkFeature, virtio::BlkRequestType, virtio::BlkStatus;
using virtio::Feature, virtio::FeatureSet;

struct AcceleratedDisk : ::testing::TestWithParam<FeatureSet> {
  AcceleratedDisk()
      : rig(value_or_die(blk::RamStore::make(1 << 20)),
            {.driver = {.features = GetParam().with(BlkFeature::flush).with(BlkFeature::config_wce),
                        .queues = 2,
                        .ring_size = 16},
             .wrap = [this](std::unique_ptr<vdpa::Device> disk) {
               auto device = std::make_unique<Accelerator>(std::move(disk));
               accel = device.get();
               return device;
             }}) {}

  std::string binding(std::uint16_t queue) const { return rig.port->report().queues[queue].device; }

  Accelerator* accel = nullptr;
  DiskRig rig;
};

TEST_P(AcceleratedDisk, DoesEveryRequestOnceWhoeverDiesOnTheWay) {
  for (std::uint64_t round = 0; round < 100; ++round) {
    const auto seed = static_cast<unsigned>(round);
    for (std::uint64_t i = 0; i < 4; ++i) {
      ASSERT_TRUE(rig.driver->submit(
          0, {.type = BlkRequestType::out, .sector = 8 * i, .data = pattern(512, static_cast<unsigned>(seed + i))}));
    }
    if (round % 2 == 0) {
      accel->die();
    } else {
      accel->come_back();
    }
    ASSERT_EQ(binding(0), round % 2 == 0 ? "soft-b" : "accel");
    for (std::uint64_t i = 0; i < 4; ++i) ASSERT_EQ(rig.driver->await(0).status, BlkStatus::ok);
    ASSERT_FALSE(rig.driver->reap(0)) << "a request was used twice";
    for (std::uint64_t i = 0; i < 4; ++i) {
      ASSERT_EQ(rig.driver->run(1, {.type = BlkRequestType::in, .sector = 8 * i, .data = {}, .answer_bytes = 512}).data,
                pattern(512, static_cast<unsigned>(seed + i)));
    }
  }
  EXPECT_EQ(accel->asked_while_gone(), 0U);
}

TEST_P(AcceleratedDisk, IsToldAgainWhatTheDriverWrote) {
  constexpr std::uint32_t kWriteback = offsetof(virtio::BlkConfig, writeback);
  const std::byte through{0};
  accel->die();
  ASSERT_TRUE(rig.port->write_config(kWriteback, std::span(&through, 1)));
  EXPECT_EQ(accel->writes(), 0U);
  accel->come_back();
  EXPECT_EQ(accel->writes(), 1U);
  EXPECT_EQ(binding(0), "accel");
}

TEST_P(AcceleratedDisk, ThatRefusesAWriteIsLeft) {
  constexpr std::uint32_t kWriteback = offsetof(virtio::BlkConfig, writeback);
  const std::byte through{0};
  accel->refuses.config = true;
  ASSERT_TRUE(rig.port->write_config(kWriteback, std::span(&through, 1)));
  EXPECT_EQ(binding(0), "soft-b");
  EXPECT_EQ(binding(1), "soft-b");
  std::byte now{9};
  ASSERT_TRUE(rig.port->read_config(kWriteback, std::span(&now, 1)));
  EXPECT_EQ(now, through);
}

INSTANTIATE_TEST_SUITE_P(Layouts, AcceleratedDisk, ::testing::Values(FeatureSet(), FeatureSet{Feature::ring_packed}),
                         [](const auto& layout) {
                           return layout.param.has(Feature::ring_packed) ? "Packed" : "Split";
                         });

}  // namespace
}  // namespace causeway::testing

// What may run at the same time, what must wait, and what becomes of both when a queue stops or moves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "blk/disk_rig.h"
#include "blk/held_store.h"

namespace causeway::testing {
namespace {

using blk::Operation;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using virtio::BlkFeature;
using virtio::BlkRequestType;
using virtio::BlkStatus;
using virtio::FeatureSet;

constexpr std::uint64_t kDisk = 1 << 20;

/// Waits until `condition` holds; a worker is on its way to make it true.
template <class Condition>
bool eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

/// Returns when the worker of queue 0 has looked at its ring since the call: it does between two of its mails.
void let_look(const DiskRig& rig) {
  for (int i = 0; i < 2; ++i) rig.first->run([] {});
}

struct OrderTest : ::testing::TestWithParam<FeatureSet> {
  OrderTest() : rig(store, {.driver = {.features = GetParam().with(BlkFeature::flush)}}) {}
  ~OrderTest() override { store->let_all_go(); }

  void write(std::uint64_t sector, unsigned seed, std::uint32_t bytes = 4096) {
    ASSERT_TRUE(rig.driver->submit(0, {.type = BlkRequestType::out, .sector = sector, .data = pattern(bytes, seed)}));
  }
  void look() { let_look(rig); }
  bool holds(std::size_t count) {
    return eventually([&] { return store->held().size() == count; });
  }
  std::vector<std::byte> read(std::uint64_t sector) {
    return rig.driver->run(0, {.type = BlkRequestType::in, .sector = sector, .data = {}, .answer_bytes = 4096}).data;
  }

  std::shared_ptr<HeldStore> store = std::make_shared<HeldStore>(kDisk);
  DiskRig rig;
};

TEST_P(OrderTest, AWriteOverOneUnderWayWaitsForIt) {
  write(0, 1);
  write(4, 2);  // the second half of the first
  write(64, 3);
  ASSERT_TRUE(holds(1));
  EXPECT_THAT(store->held(), ElementsAre(Pair(Operation::Kind::write, 0U)));
  store->let_one_go();
  EXPECT_EQ(rig.driver->await(0).status, BlkStatus::ok);
  ASSERT_TRUE(holds(2));
  EXPECT_THAT(store->held(), ElementsAre(Pair(Operation::Kind::write, 2048U), Pair(Operation::Kind::write, 32768U)));
}

TEST_P(OrderTest, WritesApartRunTogether) {
  for (unsigned i = 0; i < 8; ++i) write(8 * i, i);
  EXPECT_TRUE(holds(8));
}

TEST_P(OrderTest, AnErrorOfTheStoreIsThatOfItsRequestAlone) {
  write(0, 1);
  write(8, 2);
  ASSERT_TRUE(holds(2));
  store->let_one_go(EIO);
  EXPECT_EQ(rig.driver->await(0).status, BlkStatus::ioerr);
  store->let_one_go();
  EXPECT_EQ(rig.driver->await(0).status, BlkStatus::ok);
}

TEST_P(OrderTest, WithoutWritebackAWriteIsAnsweredOnceItIsDurable) {
  const std::byte off{0};
  ASSERT_TRUE(rig.port->write_config(offsetof(virtio::BlkConfig, writeback), std::span(&off, 1)));
  write(0, 1);
  ASSERT_TRUE(holds(1));
  store->let_one_go();
  ASSERT_TRUE(eventually([&] { return !store->held().empty() && store->held()[0].first == Operation::Kind::flush; }));
  EXPECT_FALSE(rig.driver->reap(0));
  store->let_one_go();
  EXPECT_EQ(rig.driver->await(0).status, BlkStatus::ok);
}

TEST_P(OrderTest, AQueueThatMovesTakesWhatWaitsWithIt) {
  write(0, 1);
  write(0, 2);
  write(0, 3);
  ASSERT_TRUE(holds(1));
  look();
  // The move waits for what has begun, which must end meanwhile.
  std::jthread helper([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    store->let_all_go();
  });
  ASSERT_TRUE(rig.port->rebind(vdpa::QueueIndex{0}, "soft-b"));
  helper.join();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(rig.driver->await(0).status, BlkStatus::ok);
  EXPECT_EQ(read(0), pattern(4096, 3));
  EXPECT_EQ(counter(rig, 0, "again"), 2U);
  EXPECT_EQ(counter(rig, 0, "writes"), 3U);
}

TEST_P(OrderTest, AStopThatDrainsFinishesEverything) {
  write(0, 1);
  write(0, 2);
  ASSERT_TRUE(holds(1));
  look();
  store->let_all_go();
  const auto state = rig.port->stop_queue(vdpa::QueueIndex{0}, vdpa::StopMode::drain);
  ASSERT_TRUE(state);
  EXPECT_THAT(state->in_flight, IsEmpty());
  EXPECT_EQ(rig.driver->await(0).status, BlkStatus::ok);
  EXPECT_EQ(rig.driver->await(0).status, BlkStatus::ok);
}

INSTANTIATE_TEST_SUITE_P(Rings, OrderTest,
                         ::testing::Values(FeatureSet{BlkFeature::config_wce},
                                           FeatureSet{BlkFeature::config_wce}.with(virtio::Feature::ring_packed)));

TEST(DiskMoves, BetweenDisksUnderLoadLoseNothing) {
  DiskRig rig(value_or_die(blk::RamStore::make(kDisk)),
              {.driver = {.features = FeatureSet{BlkFeature::mq}.with(virtio::Feature::ring_packed), .queues = 2}});
  std::vector<std::byte> model(kDisk);
  for (unsigned round = 0; round < 400; ++round) {
    for (std::uint16_t queue = 0; queue < 2; ++queue) {
      for (unsigned i = 0; i < 8; ++i) {
        const std::uint64_t sector = 8 * ((round * 17 + i) % 100) + queue * 1024U;
        const auto data = pattern(4096, round * 100 + i);
        std::ranges::copy(data, model.begin() + static_cast<std::ptrdiff_t>(sector * 512));
        ASSERT_TRUE(rig.driver->submit(queue, {.type = BlkRequestType::out, .sector = sector, .data = data}));
      }
      ASSERT_TRUE(rig.port->rebind(vdpa::QueueIndex{queue}, round % 2 == 0 ? "soft-b" : "soft-a"));
      for (unsigned i = 0; i < 8; ++i) ASSERT_EQ(rig.driver->await(queue).status, BlkStatus::ok);
    }
  }
  EXPECT_EQ(rig.port->report().rebinds, 800U);
  EXPECT_EQ(counter(rig, 0, "writes") + counter(rig, 1, "writes"), 400U * 16U);
  for (std::uint64_t sector = 0; sector < kDisk / 512; sector += 128) {
    const auto done =
        rig.driver->run(0, {.type = BlkRequestType::in, .sector = sector, .data = {}, .answer_bytes = 65536});
    ASSERT_TRUE(std::ranges::equal(done.data, std::span(model).subspan(sector * 512, 65536)));
  }
}

TEST(DiskLimits, HoldRequestsBackAndADrainDoesNotWaitForThem) {
  DiskRig rig(
      value_or_die(blk::RamStore::make(kDisk)),
      {.driver = {.features = {}}, .limits = {.requests = blk::RateLimit{.per_second = 1, .burst = 2}, .bytes = {}}});
  for (unsigned i = 0; i < 20; ++i) {
    ASSERT_TRUE(rig.driver->submit(0, {.type = BlkRequestType::out, .sector = 8 * i, .data = pattern(4096, i)}));
  }
  ASSERT_TRUE(eventually([&] { return counter(rig, 0, "throttled") > 0; }));
  let_look(rig);
  const auto left = rig.port->stop_queue(vdpa::QueueIndex{0}, vdpa::StopMode::leave);
  ASSERT_TRUE(left);
  EXPECT_GT(left->in_flight.size(), 10U);
  ASSERT_TRUE(rig.port->start_queue(vdpa::QueueIndex{0}, std::nullopt));
  let_look(rig);
  const auto start = std::chrono::steady_clock::now();
  const auto none = rig.port->stop_queue(vdpa::QueueIndex{0}, vdpa::StopMode::drain);
  ASSERT_TRUE(none);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_THAT(none->in_flight, IsEmpty());
  for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(rig.driver->await(0).status, BlkStatus::ok);
}

}  // namespace
}  // namespace causeway::testing

// Doorbells that a back-end gives a Frontend, and a Port behind it its own driver side.
#include "vhost_user/frontend.h"
#include "vhost_user/frontend_fixture.h"

namespace causeway::vhost_user::testing {
namespace {

class ADoorbellFromAfar : public FrontendTest {
 protected:
  void SetUp() override {
    FrontendTest::SetUp();
    far_ = std::make_unique<FarSide>();
    change(true);
  }
  void tear_down_far_side() override { far_.reset(); }
  void change(bool has_one, std::uint64_t size = kPage) {
    far_->ask([&](FakeDevice& device) {
      device.doorbells.reset();
      device.doorbell_size = size;
      if (has_one) device.doorbells.emplace(*make_memfd("doorbells", 4 * kPage));
      if (device.runs(1)) device.observer->notify_area_changed(QueueIndex{1});
      return true;
    });
  }
  void open(bool reconnect = false) {
    FrontendConfig config = usual();
    config.reconnect = reconnect;
    const auto made = make(config);
    ASSERT_TRUE(made) << made.error().text();
  }
  void have_one(bool reconnect = false) {
    open(reconnect);
    start(1);
    ASSERT_TRUE(run_until([&] { return has_one(); }));
  }
  bool has_one() const { return frontend_->notify_area(QueueIndex{1}).has_value(); }
  FileIdentity far_file() {
    return far_->ask([](FakeDevice& device) { return *identify(*device.doorbells); });
  }
  port::Doorbell far_state() {
    return far_->ask_port([](port::Port& port) { return port.report().queues[1].doorbell; });
  }
  std::unique_ptr<FarSide> far_;
};

TEST_F(ADoorbellFromAfar, IsThatOfTheDeviceThere) {
  have_one();
  const auto area = frontend_->notify_area(QueueIndex{1});
  EXPECT_EQ(*identify(area->fd), far_file());
  EXPECT_EQ(area->offset, kPage);
  EXPECT_EQ(area->size, kPage);
  EXPECT_EQ(observer_.doorbells, std::vector<unsigned>{1});
  EXPECT_TRUE(run_until([&] { return far_state() == port::Doorbell::accepted; }));
  EXPECT_FALSE(frontend_->notify_area(QueueIndex{0}));
}

TEST_F(ADoorbellFromAfar, IsGoneWhenItIsWithdrawnAndTheQueueIsKicked) {
  have_one();
  ASSERT_TRUE(run_until([&] { return far_state() == port::Doorbell::accepted; }));
  far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{1}).kick->drain(); });
  change(false);
  ASSERT_TRUE(run_until([&] { return !has_one(); }));
  EXPECT_EQ(observer_.doorbells.size(), 2U);
  EXPECT_TRUE(run_until(
      [&] { return far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{1}).kick->drain(); }); }));
}

TEST_F(ADoorbellFromAfar, IsGoneWhenItsQueueStopsAndComesAgain) {
  have_one();
  ASSERT_TRUE(frontend_->stop_queue(QueueIndex{1}, vdpa::StopMode::drain));
  EXPECT_FALSE(has_one());
  EXPECT_EQ(far_state(), port::Doorbell::none);
  ASSERT_TRUE(set_queue(1));
  ASSERT_TRUE(frontend_->enable_queue(QueueIndex{1}, true));
  EXPECT_TRUE(run_until([&] { return has_one(); }));
}

TEST_F(ADoorbellFromAfar, ThatCameBeforeItsQueueStoppedIsNotThatOfTheNextStart) {
  open();
  start(1);
  ASSERT_TRUE(frontend_->stop_queue(QueueIndex{1}, vdpa::StopMode::drain));
  change(false);
  ASSERT_TRUE(set_queue(1));
  ASSERT_TRUE(frontend_->enable_queue(QueueIndex{1}, true));
  for (int i = 0; i < 100; ++i) loop_->run_ready();
  EXPECT_FALSE(has_one());
}

TEST_F(ADoorbellFromAfar, IsRefusedWhenItIsNotOfWholePages) {
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{100}, ~std::uint64_t{0} - kPage + 1}) {
    change(true, size);
    if (!frontend_) {
      open();
      start(1);
    }
    EXPECT_TRUE(run_until([&] { return far_state() == port::Doorbell::refused; })) << size;
    EXPECT_FALSE(has_one()) << size;
  }
  change(true);
  EXPECT_TRUE(run_until([&] { return has_one(); }));
}

TEST_F(ADoorbellFromAfar, GoesWithItsBackendAndComesWithTheNext) {
  have_one(true);
  far_->leave();
  ASSERT_TRUE(run_until([&] { return !has_one(); }));
  EXPECT_EQ(observer_.doorbells.size(), 2U);
  far_->come_back();
  EXPECT_TRUE(run_until([&] { return has_one(); }));
}

TEST_F(ADoorbellFromAfar, GoesThroughAPort) {
  open();
  NearSide side;
  const QueueIndex queue{1};
  const auto port = put_behind_port(side);
  ASSERT_TRUE(start_behind(*port, queue));
  ASSERT_TRUE(run_until([&] { return side.offers.contains(queue); }));
  EXPECT_EQ(side.offers.at(queue), far_file());
  change(false);
  EXPECT_TRUE(run_until([&] { return side.offers.empty(); }));
  change(true);
  EXPECT_TRUE(run_until([&] { return side.offers.contains(queue); }));
  ASSERT_TRUE(port->stop_queue(queue));
  EXPECT_TRUE(side.offers.empty());
  port->detach();
}

}  // namespace
}  // namespace causeway::vhost_user::testing

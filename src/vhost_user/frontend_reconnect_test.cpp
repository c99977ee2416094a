// A Frontend whose back-end leaves and comes back.
#include "vhost_user/frontend.h"
#include "vhost_user/frontend_fixture.h"

namespace causeway::vhost_user::testing {
namespace {

using virtio::FeatureSet;

class AFrontendThatReconnects : public FrontendTest {
 protected:
  void SetUp() override {
    FrontendTest::SetUp();
    far_ = std::make_unique<FarSide>();
    FrontendConfig config = usual();
    config.reconnect = true;
    const auto made = make(config);
    ASSERT_TRUE(made) << made.error().text();
  }
  void tear_down_far_side() override { far_.reset(); }
  void lose_backend() {
    far_->leave();
    ASSERT_TRUE(run_until([&] { return !frontend_->is_connected(); }));
  }
  void find_backend() {
    far_->come_back();
    ASSERT_TRUE(run_until([&] { return frontend_->is_connected(); }));
  }
  void change_backend() {
    far_->leave();
    far_->come_back();
    // The next one may be there within the same turn of the loop: what it always changes is this.
    const auto before = frontend_->config_generation();
    ASSERT_TRUE(run_until([&] { return frontend_->config_generation() != before; }));
  }
  /// Position and state of a queue on the far side; nothing when it does not run.
  std::optional<std::pair<std::uint16_t, bool>> far_queue(std::uint16_t queue) {
    return far_->ask([queue](FakeDevice& device) -> std::optional<std::pair<std::uint16_t, bool>> {
      if (!device.runs(queue)) return std::nullopt;
      const auto& state = device.queues.at(QueueIndex{queue});
      return std::pair(state.ring.state().avail, state.enabled);
    });
  }
  void use_up_to(std::uint32_t queue, std::uint16_t index) {
    memory_->store16(GuestMemory::available(queue) + 2, index);
    memory_->store16(GuestMemory::used(queue) + 2, index);
  }
  std::unique_ptr<FarSide> far_;
};

TEST_F(AFrontendThatReconnects, ResumesItsQueuesWhereTheRingsStand) {
  start(1);
  use_up_to(1, 9);
  kick_->drain();
  call_->drain();
  lose_backend();
  EXPECT_FALSE(observer_.gone);
  find_backend();
  EXPECT_EQ(far_queue(1), std::pair(std::uint16_t{9}, true));
  EXPECT_TRUE(far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{1}).kick->drain(); })) << "kick";
  EXPECT_TRUE(call_->drain());
  EXPECT_EQ(far_->ask([](FakeDevice& device) { return device.features; }), FeatureSet{virtio::Feature::version_1});
  const auto state = frontend_->stop_queue(QueueIndex{1}, vdpa::StopMode::drain);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->avail, 9);
}

TEST_F(AFrontendThatReconnects, GoesOnAgainAndAgain) {
  start(0);
  for (std::uint16_t i = 1; i <= 5; ++i) {
    use_up_to(0, i);
    lose_backend();
    find_backend();
    EXPECT_EQ(far_queue(0), std::pair(i, true));
  }
}

TEST_F(AFrontendThatReconnects, DoesNotWaitForOneThatComesAtOnce) {
  using Clock = std::chrono::steady_clock;
  start(0);
  auto quickest = Clock::duration::max();  // of several: other programs may be in the way of one
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(Connector::kFirstBackOff);
    const auto begin = Clock::now();
    ASSERT_NO_FATAL_FAILURE(change_backend());
    quickest = std::min(quickest, Clock::now() - begin);
  }
  EXPECT_LT(quickest, Connector::kFirstBackOff);
}

TEST_F(AFrontendThatReconnects, RemembersWhatItIsToldMeanwhile) {
  lose_backend();
  start(0);
  ASSERT_TRUE(frontend_->set_mtu(1400));
  std::array<std::byte, 6> mac{};
  EXPECT_TRUE(frontend_->read_config(0, mac)) << "as last seen";
  ASSERT_TRUE(set_queue(1));
  find_backend();
  EXPECT_EQ(far_queue(0), std::pair(std::uint16_t{0}, true));
  EXPECT_EQ(far_queue(1), std::nullopt) << "not before enable_queue";
  EXPECT_EQ(far_->ask([](FakeDevice& device) { return device.regions.size(); }), 1u);
  EXPECT_EQ(far_->ask([](FakeDevice& device) { return device.mtu; }), 1400);
}

TEST_F(AFrontendThatReconnects, StopsAQueueWhereTheRingStands) {
  start(0);
  use_up_to(0, 21);
  lose_backend();
  const auto state = frontend_->stop_queue(QueueIndex{0}, vdpa::StopMode::drain);
  ASSERT_TRUE(state) << state.error().text();
  EXPECT_EQ(state->avail, 21);
  find_backend();
  EXPECT_EQ(far_queue(0), std::nullopt);
}

TEST_F(AFrontendThatReconnects, LosesItsBackendInTheMiddleOfARequest) {
  start(0);
  far_->leave();
  // The loop has not seen the end yet: the request is what finds out.
  EXPECT_TRUE(frontend_->enable_queue(QueueIndex{0}, false));
  find_backend();
  EXPECT_EQ(far_queue(0), std::pair(std::uint16_t{0}, false));
}

TEST_F(AFrontendThatReconnects, ConnectsAnewOnceItsDriverHasLeft) {
  start(0);
  use_up_to(0, 7);
  const auto before = frontend_->config_generation();
  ASSERT_TRUE(frontend_->stop_queue(QueueIndex{0}, vdpa::StopMode::drain));
  ASSERT_TRUE(frontend_->set_status(vdpa::Status::reset));
  EXPECT_TRUE(frontend_->is_connected()) << "as long as it has the driver's memory";
  const std::vector<memory::Region> regions{region()};
  ASSERT_TRUE(frontend_->unmap(regions));
  EXPECT_FALSE(frontend_->is_connected());
  ASSERT_TRUE(run_until([&] { return frontend_->config_generation() != before; })) << "the next one is there";
  EXPECT_TRUE(frontend_->is_connected());
  EXPECT_FALSE(observer_.gone);
}

TEST_F(AFrontendThatReconnects, RefusesASuccessorThatLacksFeatures) {
  ASSERT_TRUE(frontend_->set_features(FeatureSet{virtio::Feature::event_idx}.with(virtio::Feature::version_1)));
  far_.reset();
  ASSERT_TRUE(run_until([&] { return !frontend_->is_connected(); }));
  std::optional<ScriptedBackend> poor(std::in_place, ProtocolFeatures{ProtocolFeature::reply_ack},
                                      ScriptedBackend::Script{});
  ASSERT_TRUE(run_until([&] { return !poor->seen().empty(); }));
  for (int i = 0; i < 50; ++i) loop_->run_ready();
  EXPECT_FALSE(frontend_->is_connected());
  poor.reset();
  far_ = std::make_unique<FarSide>();
  EXPECT_TRUE(run_until([&] { return frontend_->is_connected(); }));
}

}  // namespace
}  // namespace causeway::vhost_user::testing

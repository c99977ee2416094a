// A Frontend against our own Backend: every message, over a socket.
#include "vhost_user/frontend.h"

#include "vhost_user/frontend_fixture.h"

namespace causeway::vhost_user::testing {
namespace {

using ::testing::HasSubstr;
using vdpa::Status;
using virtio::FeatureSet, virtio::NetFeature;

class AFrontend : public FrontendTest {
 protected:
  void SetUp() override {
    FrontendTest::SetUp();
    far_ = std::make_unique<FarSide>();
  }
  void tear_down_far_side() override { far_.reset(); }
  void connect() {
    const auto made = make(usual());
    ASSERT_TRUE(made) << made.error().text();
  }
  std::size_t far_regions() {
    return far_->ask([](FakeDevice& device) { return device.regions.size(); });
  }
  bool far_runs(std::uint16_t queue) {
    return far_->ask([queue](FakeDevice& device) { return device.runs(queue); });
  }
  std::unique_ptr<FarSide> far_;
};

TEST_F(AFrontend, IsWhatItsBackendIs) {
  connect();
  const auto& info = frontend_->info();
  EXPECT_EQ(info.name, "peer");
  EXPECT_EQ(info.queues, 2);
  EXPECT_EQ(info.config_size, kConfigSize);
  EXPECT_TRUE(info.features.has(virtio::Feature::version_1));
  EXPECT_TRUE(info.features.has(virtio::Feature::event_idx));
  EXPECT_TRUE(info.features.has(NetFeature::ctrl_vq)) << "a front-end answers control commands by itself";
  EXPECT_FALSE(info.features.has(NetFeature::mq)) << "one pair";
  EXPECT_FALSE(info.features.has(kProtocolFeaturesBit)) << "belongs to the protocol";
  EXPECT_TRUE(frontend_->protocol_features().has(ProtocolFeature::configure_mem_slots));
}

TEST_F(AFrontend, HasTheQueuesThatAreWantedAndThere) {
  far_ = nullptr;
  far_ = std::make_unique<FarSide>(std::uint16_t{4});
  FrontendConfig config = usual();
  config.queues = 6;
  ASSERT_TRUE(make(config));
  EXPECT_EQ(frontend_->info().queues, 6);
  EXPECT_TRUE(frontend_->info().features.has(NetFeature::mq));
  EXPECT_EQ(frontend_->control_queue(FeatureSet{NetFeature::ctrl_vq}.with(NetFeature::mq)), QueueIndex{6});
}

TEST_F(AFrontend, PassesFeaturesOn) {
  connect();
  ASSERT_TRUE(frontend_->set_features(FeatureSet{NetFeature::ctrl_vq}.with(virtio::Feature::version_1)));
  EXPECT_EQ(far_->ask([](FakeDevice& device) { return device.features; }), FeatureSet{virtio::Feature::version_1})
      << "but those that it serves itself";
  const auto refused = frontend_->set_features(FeatureSet{NetFeature::rss});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().text(), "device peer does not offer rss");
}

TEST_F(AFrontend, PassesMemoryOnWhileQueuesRun) {
  connect();
  const std::vector<memory::Region> first{region(0, 4)};
  const std::vector<memory::Region> more{region(1, 4), region(2, 4)};
  ASSERT_TRUE(frontend_->map(first));
  ASSERT_TRUE(set_queue(0));
  EXPECT_FALSE(far_runs(0)) << "before it is said whether it is enabled";
  ASSERT_TRUE(frontend_->enable_queue(QueueIndex{0}, false));
  ASSERT_TRUE(frontend_->map(more));
  EXPECT_EQ(far_regions(), 3u);
  ASSERT_TRUE(frontend_->unmap(more));
  EXPECT_EQ(far_regions(), 1u);
  EXPECT_TRUE(far_runs(0));
}

TEST_F(AFrontend, TellsOfAQueueWhoseRingIsUnmapped) {
  connect();
  start(0);
  const std::vector<memory::Region> regions{region()};
  ASSERT_TRUE(frontend_->unmap(regions));
  EXPECT_FALSE(far_runs(0));
  EXPECT_TRUE(observer_.failed.empty()) << "not from within the request";
  ASSERT_TRUE(run_until([&] { return !observer_.failed.empty(); }));
  EXPECT_EQ(observer_.failed.front().first, 0u);
}

TEST_F(AFrontend, StartsAQueueWhereItIsToldAndStopsIt) {
  connect();
  // A split ring with nothing in flight stands at its used index.
  memory_->store16(GuestMemory::used(1) + 2, 77);
  memory_->store16(GuestMemory::available(1) + 2, 77);
  start(1, 77);
  EXPECT_TRUE(far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{1}).enabled; }));
  EXPECT_EQ(far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{1}).ring.state().avail; }), 77);
  const auto state = frontend_->stop_queue(QueueIndex{1}, vdpa::StopMode::drain);
  ASSERT_TRUE(state) << state.error().text();
  EXPECT_EQ(*state, (vdpa::QueueState{.avail = 77, .used = 77, .in_flight = {}}));
  EXPECT_FALSE(far_runs(1));
  EXPECT_FALSE(frontend_->stop_queue(QueueIndex{1}, vdpa::StopMode::drain));
}

TEST_F(AFrontend, DisablesAQueue) {
  connect();
  start(0);
  ASSERT_TRUE(frontend_->enable_queue(QueueIndex{0}, false));
  EXPECT_FALSE(far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{0}).enabled; }));
}

TEST_F(AFrontend, HandsKickAndCallThrough) {
  connect();
  start(0);
  EXPECT_TRUE(far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{0}).kick->drain(); }))
      << "the look at the start";
  kick_->signal();
  EXPECT_TRUE(far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{0}).kick->drain(); }));
  call_->drain();
  far_->ask([](FakeDevice& device) {
    device.queues.at(QueueIndex{0}).call->signal();
    return true;
  });
  EXPECT_TRUE(call_->drain());

  const auto other = *CallFd::make();
  ASSERT_TRUE(frontend_->set_call(QueueIndex{0}, other));
  other.drain();
  far_->ask([](FakeDevice& device) {
    device.queues.at(QueueIndex{0}).call->signal();
    return true;
  });
  EXPECT_TRUE(other.drain());
  EXPECT_FALSE(call_->drain());
}

TEST_F(AFrontend, ReadsAndWritesConfiguration) {
  connect();
  far_->ask([](FakeDevice& device) {
    device.config[5] = std::byte{0x55};
    return true;
  });
  std::array<std::byte, 2> bytes{};
  ASSERT_TRUE(frontend_->read_config(5, bytes));
  EXPECT_EQ(bytes[0], std::byte{0x55});
  bytes[0] = std::byte{0x11};
  ASSERT_TRUE(frontend_->write_config(0, bytes));
  EXPECT_EQ(far_->ask([](FakeDevice& device) { return device.config[0]; }), std::byte{0x11});
  EXPECT_FALSE(frontend_->read_config(11, bytes)) << "outside";
}

TEST_F(AFrontend, SaysWhatTheBackendRefuses) {
  connect();
  const std::array<std::byte, 2> bytes{};
  const auto written = frontend_->write_config(8, bytes);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().text(), "SET_CONFIG: the back-end refuses (answers 1)");
  EXPECT_TRUE(frontend_->is_connected());
}

TEST_F(AFrontend, TellsOfConfigurationThatChanged) {
  connect();
  start(0);
  far_->ask([](FakeDevice& device) {
    device.observer->config_changed();
    return true;
  });
  ASSERT_TRUE(run_until([&] { return observer_.config_changes == 1; }));
  EXPECT_EQ(frontend_->config_generation(), 1u);
}

TEST_F(AFrontend, TellsOfABrokenRing) {
  connect();
  start(0);
  far_->ask([](FakeDevice& device) {
    device.observer->queue_failed(QueueIndex{0}, {.code = Errc::peer_violation, .what = "broken"});
    return true;
  });
  ASSERT_TRUE(run_until([&] { return !observer_.failed.empty(); }));
  EXPECT_EQ(observer_.failed.front().first, 0u);
}

TEST_F(AFrontend, PassesStatusOnAndResets) {
  connect();
  start(0);
  EXPECT_TRUE(vdpa::has(far_->ask([](FakeDevice& device) { return device.status(); }), Status::driver_ok))
      << "a driver side that does not speak of status";
  const Status status = Status::acknowledge | Status::driver | Status::features_ok;
  ASSERT_TRUE(frontend_->set_status(status));
  EXPECT_EQ(frontend_->status(), status);
  EXPECT_EQ(far_->ask([](FakeDevice& device) { return device.status(); }), status);

  ASSERT_TRUE(frontend_->set_status(Status::reset));
  EXPECT_EQ(far_->ask([](FakeDevice& device) { return device.status(); }), Status::reset);
  EXPECT_FALSE(far_runs(0));
  EXPECT_EQ(far_regions(), 1u) << "memory stays";
  ASSERT_TRUE(frontend_->set_features(FeatureSet{virtio::Feature::version_1}));
  EXPECT_TRUE(set_queue(0)) << "and the device can be used again";
}

TEST_F(AFrontend, AnnouncesAndSetsTheMtu) {
  connect();
  const std::array<std::byte, 6> mac{std::byte{2}, std::byte{0}, std::byte{0},
                                     std::byte{0}, std::byte{0}, std::byte{9}};
  ASSERT_TRUE(frontend_->announce(mac));
  ASSERT_TRUE(frontend_->set_mtu(9000));
  EXPECT_EQ(far_->ask([](FakeDevice& device) { return device.announced; }),
            std::vector<std::byte>(mac.begin(), mac.end()));
  EXPECT_EQ(far_->ask([](FakeDevice& device) { return device.mtu; }), 9000);
}

TEST_F(AFrontend, UsesAsManyPairsAsTheDriverSays) {
  far_ = nullptr;
  far_ = std::make_unique<FarSide>(std::uint16_t{2});
  FrontendConfig config = usual();
  config.queues = 4;
  ASSERT_TRUE(make(config));
  start(2);
  const auto enabled = [&] {
    return far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{2}).enabled; });
  };
  EXPECT_TRUE(enabled());
  const auto pairs = [](unsigned count) {
    return bytes_of(std::uint8_t{4}, std::uint8_t{0}, static_cast<std::uint16_t>(count));
  };
  EXPECT_EQ(frontend_->control(pairs(1)).ack, 0);
  EXPECT_FALSE(enabled());
  EXPECT_EQ(frontend_->control(pairs(2)).ack, 0);
  EXPECT_TRUE(enabled());
  EXPECT_EQ(frontend_->control(pairs(3)).ack, 1);
  EXPECT_EQ(frontend_->control(bytes_of(std::uint8_t{0}, std::uint8_t{0}, std::uint8_t{1})).ack, 0) << "promiscuous";
  EXPECT_EQ(frontend_->control(bytes_of(std::uint8_t{5}, std::uint8_t{0}, std::uint64_t{0})).ack, 1) << "offloads";
}

TEST_F(AFrontend, TellsThatItsBackendHasLeft) {
  connect();
  start(0);
  far_->leave();
  ASSERT_TRUE(run_until([&] { return observer_.gone.has_value(); }));
  EXPECT_EQ(*observer_.gone, "the back-end has closed the connection");
  EXPECT_FALSE(frontend_->is_connected());
  const auto asked = frontend_->set_features({});
  ASSERT_FALSE(asked);
  EXPECT_EQ(asked.error().text(), "device peer: its back-end has left");
  EXPECT_EQ(set_queue(0).error().code, Errc::gone);
  EXPECT_TRUE(frontend_->set_status(Status::reset)) << "nothing is left to be reset";
}

TEST_F(AFrontend, CanBeWhoListens) {
  far_ = nullptr;
  far_ = std::make_unique<FarSide>(std::uint16_t{1},
                                   BackendConfig{.path = test_socket(), .role = Role::connect, .options = {}});
  FrontendConfig config = usual();
  config.role = Role::listen;
  const auto made = make(config);
  ASSERT_TRUE(made) << made.error().text();
  start(0);
  EXPECT_TRUE(far_runs(0));
}

TEST_F(AFrontend, DoesNotWaitForEverForItsFirstBackend) {
  far_.reset();
  FrontendConfig config = usual();
  config.wait = milliseconds(60);
  const auto made = make(config);
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().text(),
              HasSubstr("device peer: socket '" + test_socket().native() + "': no back-end in 60 ms"));
}

TEST_F(AFrontend, KicksAndIsCalledInMessages) {
  far_ = nullptr;
  far_ = std::make_unique<FarSide>(std::uint16_t{1},
                                   BackendConfig{.path = test_socket(), .options = {.inband_notifications = true}});
  FrontendConfig config = usual();
  config.inband_notifications = true;
  ASSERT_TRUE(make(config));
  start(0);
  const auto kicked = [&] {
    return far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{0}).kick->drain(); });
  };
  ASSERT_TRUE(run_until(kicked));
  kick_->signal();
  EXPECT_TRUE(run_until(kicked));
  call_->drain();
  far_->ask([](FakeDevice& device) {
    device.queues.at(QueueIndex{0}).call->signal();
    return true;
  });
  EXPECT_TRUE(run_until([&] { return call_->drain(); }));
  far_->ask([](FakeDevice& device) {
    device.observer->queue_failed(QueueIndex{0}, {.code = Errc::peer_violation, .what = "broken"});
    return true;
  });
  EXPECT_TRUE(run_until([&] { return !observer_.failed.empty(); }));
}

}  // namespace
}  // namespace causeway::vhost_user::testing

#include "vhost_user/session_fixture.h"

namespace causeway::vhost_user::testing {
namespace {

class DeviceWide : public SessionTest {
 protected:
  void SetUp() override {
    SessionTest::SetUp();
    negotiate();
  }
  static Bytes config(std::uint32_t offset, std::uint32_t flags, const Bytes& bytes) {
    Bytes payload =
        bytes_of(wire::ConfigHead{.offset = offset, .size = static_cast<std::uint32_t>(bytes.size()), .flags = flags});
    payload.insert(payload.end(), bytes.begin(), bytes.end());
    return payload;
  }
};

TEST_F(DeviceWide, GetConfigAnswersTheSameSize) {
  device().config[3] = std::byte{42};
  const auto reply = exchange(Request::get_config, config(2, 0, Bytes(4)));
  ASSERT_TRUE(reply);
  ASSERT_EQ(reply->payload.size(), 16u);
  EXPECT_EQ(reply->payload[13], std::byte{42});
  EXPECT_EQ(value_of<wire::ConfigHead>(reply->payload).offset, 2u);
}

TEST_F(DeviceWide, GetConfigOutsideTheSpaceAnswersNothing) {
  for (const auto offset : {10u, 12u, 0xffffffffu}) {
    const auto reply = exchange(Request::get_config, config(offset, 0, Bytes(4)));
    ASSERT_TRUE(reply);
    EXPECT_TRUE(reply->payload.empty());
  }
  EXPECT_TRUE(answers());
}

TEST_F(DeviceWide, SetConfigWritesWhatTheDriverMayWrite) {
  EXPECT_EQ(ask(Request::set_config, config(0, 0, bytes_of(std::uint32_t{0x01020304}))), 0u);
  EXPECT_EQ(device().config[0], std::byte{4});
}

TEST_F(DeviceWide, SetConfigRefusesReadOnlyFields) {
  EXPECT_EQ(ask(Request::set_config, config(8, 0, bytes_of(std::uint32_t{7}))), 1u);
  EXPECT_EQ(device().config[8], std::byte{0});
}

TEST_F(DeviceWide, MigrationMayTellReadOnlyFieldsThatAreSoAlready) {
  device().config[8] = std::byte{7};
  EXPECT_EQ(ask(Request::set_config, config(8, 1, bytes_of(std::uint32_t{7}))), 0u);
  EXPECT_EQ(ask(Request::set_config, config(8, 0, bytes_of(std::uint32_t{7}))), 1u);
}

TEST_F(DeviceWide, StatusIsKeptAndZeroResets) {
  give_memory();
  start_ring(0);
  EXPECT_EQ(ask(Request::set_status, bytes_of(std::uint64_t{0xf})), 0u);
  EXPECT_EQ(exchange(Request::get_status)->u64(), 0xfu);
  EXPECT_EQ(ask(Request::set_status, bytes_of(std::uint64_t{0})), 0u);
  EXPECT_EQ(exchange(Request::get_status)->u64(), 0u);
  EXPECT_TRUE(device().queues.empty());
  EXPECT_EQ(device().regions.size(), 1u);
}

TEST_F(DeviceWide, PositionsSurviveStatusZeroSinceOldQemuAsksForThemAfterIt) {
  give_memory();
  rig_->memory.store16(GuestMemory::used(0) + 2, 300);
  rig_->memory.store16(GuestMemory::available(0) + 2, 300);
  exchange(Request::set_vring_num, bytes_of(wire::VringState{.index = 0, .number = 128}));
  exchange(Request::set_vring_addr, bytes_of(ring_addresses(0)));
  exchange(Request::set_vring_base, bytes_of(wire::VringState{.index = 0, .number = 300}));
  kick_off(0);
  ASSERT_TRUE(device().runs(0));
  EXPECT_EQ(ask(Request::set_status, bytes_of(std::uint64_t{0})), 0u);
  const auto reply = exchange(Request::get_vring_base, bytes_of(wire::VringState{.index = 0, .number = 0}));
  ASSERT_TRUE(reply);
  EXPECT_EQ(value_of<wire::VringState>(reply->payload).number, 300u);
}

TEST_F(DeviceWide, CallErrAndEnableSurviveStatusZero) {
  give_memory();
  exchange(Request::set_vring_call, bytes_of(std::uint64_t{0}), {&call_.fd()});
  exchange(Request::set_vring_enable, bytes_of(wire::VringState{.index = 0, .number = 1}));
  start_ring(0);
  EXPECT_EQ(ask(Request::set_status, bytes_of(std::uint64_t{0})), 0u);
  exchange(Request::set_features, bytes_of(features_with_bit30()));
  start_ring(0);
  EXPECT_TRUE(device().queues.at(QueueIndex{0}).call);
  EXPECT_TRUE(device().queues.at(QueueIndex{0}).enabled);
}

TEST_F(DeviceWide, ResetDeviceDisablesRings) {
  give_memory();
  exchange(Request::set_vring_enable, bytes_of(wire::VringState{.index = 0, .number = 1}));
  EXPECT_EQ(ask(Request::reset_device), 0u);
  exchange(Request::set_features, bytes_of(features_with_bit30()));
  start_ring(0);
  EXPECT_FALSE(device().queues.at(QueueIndex{0}).enabled);
}

TEST_F(DeviceWide, ResetDeviceStopsQueuesAndKeepsMemoryAndConnection) {
  give_memory();
  start_ring(0);
  EXPECT_EQ(ask(Request::reset_device), 0u);
  EXPECT_TRUE(device().queues.empty());
  EXPECT_EQ(port().features(), virtio::FeatureSet());
  exchange(Request::set_features, bytes_of(features_with_bit30()));
  start_ring(0);
}

TEST_F(DeviceWide, SetMtuReachesTheDevice) {
  EXPECT_EQ(ask(Request::net_set_mtu, bytes_of(std::uint64_t{9000})), 0u);
  EXPECT_EQ(device().mtu, 9000);
}

TEST_F(DeviceWide, SendRarpAnnouncesTheFirstSixBytes) {
  EXPECT_EQ(ask(Request::send_rarp, bytes_of(std::uint64_t{0x0000060504030201})), 0u);
  const auto mac =
      bytes_of(std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{3}, std::uint8_t{4}, std::uint8_t{5}, std::uint8_t{6});
  EXPECT_EQ(device().announced, mac);
}

/// With the back-end channel; `channel_` is the front-end's end.
class Channel : public SessionTest {
 protected:
  void open_channel() {
    auto [ours, theirs] = *UnixSocket::make_pair();
    channel_ = std::make_unique<Peer>(std::move(ours));
    EXPECT_EQ(ask(Request::set_backend_req_fd, {}, {&theirs.fd()}), 0u);
  }
  void TearDown() override {
    channel_.reset();
    SessionTest::TearDown();
  }
  void answer(BackendRequest request) {
    channel_->send_raw(
        message(std::to_underlying(request), wire::kVersion | wire::kReplyFlag, bytes_of(std::uint64_t{0})));
    rig_->pump();
  }
  std::unique_ptr<Peer> channel_;
};

TEST_F(Channel, ConfigChangeIsTold) {
  negotiate();
  give_memory();
  open_channel();
  start_ring(0);
  device().observer->config_changed();
  const auto told = channel_->receive();
  ASSERT_TRUE(told);
  EXPECT_EQ(told->request, std::to_underlying(BackendRequest::config_change_msg));
  EXPECT_EQ(told->flags, wire::kVersion | wire::kNeedReplyFlag);
  EXPECT_TRUE(told->payload.empty());
}

TEST_F(Channel, OneMessageIsOnItsWayAtATime) {
  negotiate();
  give_memory();
  open_channel();
  start_ring(0);
  for (int i = 0; i < 3; ++i) device().observer->config_changed();
  EXPECT_TRUE(channel_->receive());
  EXPECT_FALSE(channel_->receive());
  answer(BackendRequest::config_change_msg);
  EXPECT_TRUE(channel_->receive());
  answer(BackendRequest::config_change_msg);
  EXPECT_FALSE(channel_->receive());
}

TEST_F(Channel, NothingIsSentWhileSuspended) {
  negotiate();
  give_memory();
  open_channel();
  device().observer->config_changed();
  EXPECT_FALSE(channel_->receive());
  start_ring(0);
  EXPECT_TRUE(channel_->receive());
}

TEST_F(Channel, WithoutReplyAckNoReplyIsAskedFor) {
  negotiate({ProtocolFeature::backend_req, ProtocolFeature::config});
  give_memory();
  auto [ours, theirs] = *UnixSocket::make_pair();
  channel_ = std::make_unique<Peer>(std::move(ours));
  exchange(Request::set_backend_req_fd, {}, {&theirs.fd()});
  start_ring(0);
  device().observer->config_changed();
  device().observer->config_changed();
  EXPECT_EQ(channel_->receive()->flags, wire::kVersion);
  EXPECT_TRUE(channel_->receive());
}

TEST_F(Channel, AFrontEndThatClosesItIsServedOn) {
  negotiate();
  give_memory();
  open_channel();
  start_ring(0);
  channel_.reset();
  rig_->pump();
  device().observer->config_changed();
  EXPECT_TRUE(answers());
  open_channel();
  device().observer->config_changed();
  EXPECT_TRUE(channel_->receive());
}

TEST_F(Channel, GarbageOnItClosesOnlyTheChannel) {
  negotiate();
  give_memory();
  open_channel();
  channel_->send_raw(Bytes(64));
  rig_->pump();
  EXPECT_TRUE(channel_->is_closed() || answers());
  EXPECT_TRUE(answers());
}

class Inband : public Channel {
 protected:
  void SetUp() override {
    start(1, {.inband_notifications = true});
    negotiate(offered_protocol_features(configured_features(true, false)).minus({ProtocolFeature::gpa_addresses}));
    give_memory();
    open_channel();
    set_up_ring(0);
  }
  std::optional<std::uint64_t> kick(std::uint32_t queue) {
    return ask(Request::vring_kick, bytes_of(wire::VringState{.index = queue, .number = 0}));
  }
  FakeDevice::Queue& queue() { return device().queues.at(QueueIndex{0}); }
};

TEST_F(Inband, VringKickStartsTheRingAndKicksIt) {
  EXPECT_EQ(kick(0), 0u);
  ASSERT_TRUE(device().runs(0));
  ASSERT_TRUE(queue().kick);
  queue().kick->drain();
  EXPECT_EQ(kick(0), 0u);
  EXPECT_TRUE(queue().kick->drain());
}

TEST_F(Inband, CallsBecomeMessagesOneAtATime) {
  EXPECT_EQ(kick(0), 0u);
  rig_->pump();
  while (channel_->receive()) answer(BackendRequest::vring_call);  // the call at the start
  queue().call->signal();
  rig_->pump();
  const auto told = channel_->receive();
  ASSERT_TRUE(told);
  EXPECT_EQ(told->request, std::to_underlying(BackendRequest::vring_call));
  EXPECT_EQ(value_of<wire::VringState>(told->payload).index, 0u);
  queue().call->signal();
  rig_->pump();
  EXPECT_FALSE(channel_->receive());
  answer(BackendRequest::vring_call);
  EXPECT_TRUE(channel_->receive());
}

TEST_F(Inband, ABrokenRingIsTold) {
  EXPECT_EQ(kick(0), 0u);
  while (channel_->receive()) answer(BackendRequest::vring_call);
  device().observer->queue_failed(QueueIndex{0}, Error{.code = Errc::peer_violation, .what = "test"});
  rig_->pump();
  const auto told = channel_->receive();
  ASSERT_TRUE(told);
  EXPECT_EQ(told->request, std::to_underlying(BackendRequest::vring_err));
}

TEST_F(Inband, ADescriptorIsPreferred) {
  exchange(Request::set_vring_call, bytes_of(std::uint64_t{0}), {&call_.fd()});
  kick_off(0);
  call_.drain();
  queue().call->signal();
  rig_->pump();
  EXPECT_FALSE(channel_->receive());
  EXPECT_TRUE(call_.drain());
}

TEST_F(Inband, NothingIsSentOfAStoppedRing) {
  EXPECT_EQ(kick(0), 0u);
  const auto call = queue().call;
  while (channel_->receive()) answer(BackendRequest::vring_call);
  exchange(Request::get_vring_base, bytes_of(wire::VringState{.index = 0, .number = 0}));
  call->signal();
  rig_->pump();
  EXPECT_FALSE(channel_->receive());
}

}  // namespace
}  // namespace causeway::vhost_user::testing

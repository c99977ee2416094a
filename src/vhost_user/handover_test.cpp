// A connection goes to another process: the front-end notices nothing, whatever it was in the middle of.
#include "vhost_user/session_fixture.h"

#include <fmt/format.h>

namespace causeway::vhost_user::testing {
namespace {

class Handover : public SessionTest, public ::testing::WithParamInterface<port::RecordFormat> {
 protected:
  void TearDown() override {
    channel_.reset();
    SessionTest::TearDown();
  }
  void hand_over() {
    const auto done = rig_->hand_over(GetParam());
    ASSERT_TRUE(done) << done.error().text();
  }
  void open_channel() {
    auto [ours, theirs] = *UnixSocket::make_pair();
    channel_ = std::make_unique<Peer>(std::move(ours));
    exchange(Request::set_backend_req_fd, {}, {&theirs.fd()});
  }
  void run_one_ring() {
    negotiate();
    give_memory();
    start_ring(0);
    exchange(Request::set_vring_enable, bytes_of(wire::VringState{.index = 0, .number = 1}));
  }
  std::unique_ptr<Peer> channel_;
};

TEST_P(Handover, OfOneThatHasSaidNothingYet) {
  hand_over();
  negotiate();
  EXPECT_TRUE(answers());
}

TEST_P(Handover, TheRingRunsOnWhereItWas) {
  run_one_ring();
  exchange(Request::set_vring_call, bytes_of(std::uint64_t{0}), {&call_.fd()});
  const auto before = port().record();
  hand_over();
  ASSERT_TRUE(device().runs(0));
  const auto& queue = device().queues.at(QueueIndex{0});
  EXPECT_TRUE(queue.enabled);
  call_.drain();
  queue.call->signal();
  EXPECT_TRUE(call_.drain());
  kick_.drain();
  queue.kick->signal();
  EXPECT_TRUE(kick_.drain());
  auto after = port().record();
  EXPECT_EQ(after.memory, before.memory);
  EXPECT_EQ(after.features, before.features);
  EXPECT_EQ(after.queues, before.queues);
  EXPECT_TRUE(answers());
  EXPECT_TRUE(exchange(Request::get_vring_base, bytes_of(wire::VringState{.index = 0, .number = 0})));
  EXPECT_FALSE(device().runs(0));
}

TEST_P(Handover, InTheMiddleOfAHeader) {
  const Bytes whole = message(std::to_underlying(Request::get_features), kPlain, {});
  rig_->peer->send_raw({whole.begin(), whole.begin() + 5});
  rig_->pump();
  hand_over();
  rig_->peer->send_raw({whole.begin() + 5, whole.end()});
  rig_->pump();
  EXPECT_TRUE(rig_->peer->receive());
}

TEST_P(Handover, BetweenAHeaderWithADescriptorAndItsPayload) {
  negotiate();
  give_memory();
  set_up_ring(0);
  const Bytes whole = message(std::to_underlying(Request::set_vring_kick), kPlain, bytes_of(std::uint64_t{0}));
  rig_->peer->send_raw({whole.begin(), whole.begin() + kHeaderSize + 3}, {&kick_.fd()});
  rig_->pump();
  hand_over();
  EXPECT_FALSE(device().runs(0));
  rig_->peer->send_raw({whole.begin() + kHeaderSize + 3, whole.end()});
  rig_->pump();
  ASSERT_TRUE(device().runs(0));
  kick_.signal();
  EXPECT_TRUE(device().queues.at(QueueIndex{0}).kick->drain());
}

TEST_P(Handover, WhileAMessageOfOursIsNotAnsweredYet) {
  negotiate();
  give_memory();
  open_channel();
  start_ring(0);
  for (int i = 0; i < 2; ++i) device().observer->config_changed();
  EXPECT_TRUE(channel_->receive());
  const Bytes reply = message(std::to_underlying(BackendRequest::config_change_msg), wire::kVersion | wire::kReplyFlag,
                              bytes_of(std::uint64_t{0}));
  channel_->send_raw({reply.begin(), reply.begin() + 7});
  rig_->pump();
  hand_over();
  EXPECT_FALSE(channel_->receive()) << "the second waits for the answer to the first";
  channel_->send_raw({reply.begin() + 7, reply.end()});
  rig_->pump();
  EXPECT_TRUE(channel_->receive());
}

TEST_P(Handover, OfRingsThatAreKickedByMessages) {
  start(1, {.inband_notifications = true});
  negotiate(offered_protocol_features(configured_features(true, false)).minus({ProtocolFeature::gpa_addresses}));
  give_memory();
  open_channel();
  set_up_ring(0);
  ask(Request::vring_kick, bytes_of(wire::VringState{.index = 0, .number = 0}));
  ASSERT_TRUE(channel_->receive()) << "a ring that starts calls once";
  channel_->send_raw(message(std::to_underlying(BackendRequest::vring_call), wire::kVersion | wire::kReplyFlag,
                             bytes_of(std::uint64_t{0})));
  rig_->pump();
  hand_over();
  const auto& queue = device().queues.at(QueueIndex{0});
  queue.kick->drain();
  EXPECT_EQ(ask(Request::vring_kick, bytes_of(wire::VringState{.index = 0, .number = 0})), 0U);
  EXPECT_TRUE(queue.kick->drain());
  const auto told = channel_->receive();
  ASSERT_TRUE(told) << "so does the one that goes on";
  EXPECT_EQ(told->request, std::to_underlying(BackendRequest::vring_call));
}

TEST_P(Handover, ThatIsGivenUpLeavesEverythingAsItWas) {
  run_one_ring();
  for (const bool has_run : {false, true}) {
    rig_->connection->freeze();
    ParcelWriter positions;
    port().pause(positions);
    EXPECT_FALSE(device().runs(0));
    port().go_on(has_run);
    rig_->connection->thaw();
    EXPECT_TRUE(device().runs(0));
    EXPECT_TRUE(answers());
  }
}

TEST_P(Handover, OfWhatIsCutOffAnywhereIsRefused) {
  run_one_ring();
  const std::size_t whole = rig_->estate(GetParam()).bytes.size();
  for (std::size_t length = 0; length < whole; ++length) {
    Parcel parcel = rig_->estate(GetParam());
    parcel.bytes.resize(length);
    ParcelReader reader(std::move(parcel));
    FakeDevice* const running = rig_->device;
    const auto port = rig_->make_port();
    rig_->device = running;
    const auto taken = [&]() -> Result<void> {
      CW_TRY(const auto next, Connection::take_over(rig_->loop, *port, rig_->log, {}, reader, [] {}));
      CW_CHECK(port->take_over(reader));
      return reader.finish();
    }();
    ASSERT_FALSE(taken) << length;
  }
  EXPECT_TRUE(device().runs(0)) << "the one that is there";
}

INSTANTIATE_TEST_SUITE_P(Formats, Handover, ::testing::Values(port::RecordFormat::first, port::RecordFormat::current),
                         [](const auto& format) { return fmt::format("Format{}", std::to_underlying(format.param)); });

}  // namespace
}  // namespace causeway::vhost_user::testing

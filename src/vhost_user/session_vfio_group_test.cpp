// VRING_VFIO_GROUP_MSG: the VFIO group of a queue on its way to the front-end. A character device stands for a group.
#include "vhost_user/session_fixture.h"

#include <fcntl.h>

namespace causeway::vhost_user::testing {
namespace {

constexpr auto kMessage = BackendRequest::vring_vfio_group_msg;

class AVfioGroup : public ChannelTest {
 protected:
  void SetUp() override {
    start(2, {.vfio_groups = true});
    give(device());
    rig_->prepare = give;
  }
  static void give(FakeDevice& device) {
    device.group.emplace(OwnedFd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC)));
  }
  static ProtocolFeatures with_groups() { return usual().with(ProtocolFeature::vfio_group); }

  void change(bool has_one) {
    device().group.reset();
    if (has_one) give(device());
    device().observer->vfio_group_changed(QueueIndex{0});
  }
  void expect_told(std::uint32_t flags, std::size_t descriptors) {
    const auto message = told();
    ASSERT_TRUE(message);
    EXPECT_EQ(message->request, std::to_underlying(kMessage));
    const auto group = value_of<wire::VringGroup>(message->payload);
    EXPECT_EQ(message->payload.size(), sizeof group);
    EXPECT_EQ(group.queue, 0U);
    EXPECT_EQ(group.flags, flags);
    ASSERT_EQ(message->fds.size(), descriptors);
    if (device().group && descriptors != 0) {
      EXPECT_EQ(*identify(message->fds.front()), *identify(*device().group));
    }
  }
  void expect_offer() { expect_told(wire::kVringGroupComes, 1); }
  void expect_withdrawal() { expect_told(0, 0); }
  /// Everything up to a group that the front-end has taken.
  void have_one() {
    begin(with_groups());
    start_ring(0);
    expect_offer();
    answer(0, kMessage);
  }
};

TEST_F(AVfioGroup, IsOfferedWhenItsRingStarts) {
  begin(with_groups());
  EXPECT_FALSE(told());
  start_ring(0);
  expect_offer();
  answer(0, kMessage);
  EXPECT_FALSE(told());
}

TEST_F(AVfioGroup, IsNeitherOfferedNorHeldUnlessConfigured) {
  start(2);
  give(device());
  const auto offered = exchange(Request::get_protocol_features);
  ASSERT_TRUE(offered);
  EXPECT_FALSE(ProtocolFeatures(offered->u64()).has(ProtocolFeature::vfio_group));
  begin();
  EXPECT_EQ(ask(Request::set_protocol_features, bytes_of(with_groups().bits())), 1U);
  const auto before = Census::take();
  start_ring(0);
  EXPECT_FALSE(told());
  EXPECT_EQ(Census::take().fds.size(), before.fds.size() + 1) << "the kick alone";
}

TEST_F(AVfioGroup, NeedsWhatItsMessageNeeds) {
  for (const auto feature : {ProtocolFeature::vfio_group, ProtocolFeature::backend_send_fd}) {
    start(2, {.vfio_groups = true});
    give(device());
    begin(with_groups().minus({feature}));
    start_ring(0);
    EXPECT_FALSE(told());
  }
}

TEST_F(AVfioGroup, IsOfferedOverAChannelThatComesLater) {
  negotiate(with_groups());
  give_memory();
  start_ring(0);
  auto [ours, theirs] = *UnixSocket::make_pair();
  channel_ = std::make_unique<Peer>(std::move(ours));
  exchange(Request::set_backend_req_fd, {}, {&theirs.fd()});
  expect_offer();
}

TEST_F(AVfioGroup, IsWithdrawnBeforeItsQueueStops) {
  have_one();
  bool was_withdrawn = false;
  device().on_stop = [&] { was_withdrawn = channel_->receive().has_value(); };
  auto elsewhere = ring_addresses(1);
  elsewhere.index = 0;
  exchange(Request::set_vring_addr, bytes_of(elsewhere));
  device().on_stop = {};
  EXPECT_TRUE(was_withdrawn);
  ASSERT_TRUE(device().runs(0));
  EXPECT_FALSE(told()) << "the withdrawal is not answered";
  answer(0, kMessage);
  expect_offer();
}

TEST_F(AVfioGroup, IsWithdrawnFromAQueueThatFails) {
  have_one();
  device().observer->queue_failed(QueueIndex{0}, Error{.code = Errc::peer_violation, .what = "test"});
  expect_withdrawal();
}

TEST_F(AVfioGroup, GoesAndComesWithItsDevice) {
  have_one();
  change(false);
  expect_withdrawal();
  answer(0, kMessage);
  change(true);
  expect_offer();
}

TEST_F(AVfioGroup, ThatIsRefusedIsNotOfferedAgainAndTheQueueRuns) {
  begin(with_groups());
  start_ring(0);
  expect_offer();
  answer(1, kMessage);
  EXPECT_FALSE(told(milliseconds(50)));
  EXPECT_TRUE(device().runs(0));
  EXPECT_TRUE(answers());
}

TEST_F(AVfioGroup, IsForgottenWhenTheFrontEndStopsItsRing) {
  have_one();
  stop_ring();
  EXPECT_FALSE(told());
  start_ring(0);
  expect_offer();
}

TEST_F(AVfioGroup, IsForgottenWithAReset) {
  have_one();
  ask(Request::set_status, bytes_of(std::uint64_t{0}));
  EXPECT_FALSE(told());
  start_ring(0);
  expect_offer();
  answer(0, kMessage);
  exchange(Request::reset_device);
  EXPECT_FALSE(told());
}

TEST_F(AVfioGroup, ThatIsWithdrawnBeforeItWasSentIsNeverSent) {
  device().group.reset();
  begin(with_groups());
  start_ring(0);
  device().observer->config_changed();
  ASSERT_TRUE(told());
  change(true);
  change(false);
  answer(0, BackendRequest::config_change_msg);
  EXPECT_FALSE(told());
}

TEST_F(AVfioGroup, IsNotKeptOpenHereByAFrontEndThatDoesNotAnswer) {
  device().group.reset();
  begin(with_groups());
  start_ring(0);
  const auto before = Census::take();
  change(true);
  expect_offer();
  change(false);
  EXPECT_EQ(Census::take(), before);
}

TEST_F(AVfioGroup, OfTheProcessBeforeIsWithdrawnByTheNext) {
  have_one();
  const auto done = rig_->hand_over(port::RecordFormat::current);
  ASSERT_TRUE(done) << done.error().text();
  expect_withdrawal();
  answer(0, kMessage);
  expect_offer();
}

}  // namespace
}  // namespace causeway::vhost_user::testing

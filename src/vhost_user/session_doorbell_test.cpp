// VRING_HOST_NOTIFIER_MSG: the doorbell of a queue on its way to the front-end and back.
#include "vhost_user/session_fixture.h"

namespace causeway::vhost_user::testing {
namespace {

constexpr milliseconds kLimit(30'000);

class ADoorbell : public ChannelTest {
 protected:
  void SetUp() override {
    SessionTest::SetUp();
    give(device());
    rig_->prepare = give;
  }
  static void give(FakeDevice& device) { device.doorbells.emplace(*make_memfd("doorbells", 4 * kPage)); }

  void change(bool has_one) {
    device().doorbells.reset();
    if (has_one) give(device());
    device().observer->notify_area_changed(QueueIndex{0});
  }
  void answer(std::uint64_t value, BackendRequest request = BackendRequest::vring_host_notifier_msg) {
    ChannelTest::answer(value, request);
  }
  void expect_offer(milliseconds limit = milliseconds(0)) {
    const auto offer = told(limit);
    ASSERT_TRUE(offer);
    EXPECT_EQ(offer->request, std::to_underlying(BackendRequest::vring_host_notifier_msg));
    const auto area = value_of<wire::VringArea>(offer->payload);
    EXPECT_EQ(area.queue, 0U);
    EXPECT_EQ(area.size, kPage);
    EXPECT_EQ(area.offset, 0U);
    ASSERT_EQ(offer->fds.size(), 1U);
    EXPECT_EQ(*identify(offer->fds.front()), *identify(*device().doorbells));
  }
  void expect_withdrawal() {
    const auto withdrawal = told();
    ASSERT_TRUE(withdrawal);
    EXPECT_EQ(value_of<wire::VringArea>(withdrawal->payload).queue, 0x100U);
    EXPECT_TRUE(withdrawal->fds.empty());
  }
  port::Doorbell state() { return port().report().queues[0].doorbell; }
  /// Everything up to a doorbell that the front-end has mapped.
  void have_one() {
    begin();
    start_ring(0);
    expect_offer();
    answer(0);
    ASSERT_EQ(state(), port::Doorbell::accepted);
  }
};

TEST_F(ADoorbell, IsOfferedWhenItsRingStarts) {
  begin();
  EXPECT_FALSE(told());
  start_ring(0);
  expect_offer();
  EXPECT_EQ(state(), port::Doorbell::offered);
  answer(0);
  EXPECT_EQ(state(), port::Doorbell::accepted);
  EXPECT_FALSE(told());
}

TEST_F(ADoorbell, NeedsWhatItsMessageNeeds) {
  for (const auto feature : {ProtocolFeature::host_notifier, ProtocolFeature::backend_send_fd}) {
    start(2);
    give(device());
    begin(usual().minus({feature}));
    start_ring(0);
    EXPECT_FALSE(told());
    EXPECT_EQ(state(), port::Doorbell::none);
  }
}

TEST_F(ADoorbell, IsNotForADriverFromBeforeVersion1) {
  begin();
  exchange(Request::set_features, bytes_of(virtio::FeatureSet().with(kProtocolFeaturesBit).bits()));
  start_ring(0);
  EXPECT_FALSE(told());
}

TEST_F(ADoorbell, IsOfferedOverAChannelThatComesLater) {
  negotiate();
  give_memory();
  start_ring(0);
  EXPECT_EQ(state(), port::Doorbell::none);
  auto [ours, theirs] = *UnixSocket::make_pair();
  channel_ = std::make_unique<Peer>(std::move(ours));
  exchange(Request::set_backend_req_fd, {}, {&theirs.fd()});
  expect_offer();
}

TEST_F(ADoorbell, IsWithdrawnBeforeItsQueueStops) {
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
  answer(0);
  expect_offer();
}

TEST_F(ADoorbell, TheQueueIsKickedWhenItIsWithdrawn) {
  have_one();
  change(false);
  expect_withdrawal();
  kick_.drain();
  EXPECT_FALSE(kick_.drain());
  answer(0);
  EXPECT_TRUE(kick_.drain());
  EXPECT_EQ(state(), port::Doorbell::none);
}

TEST_F(ADoorbell, IsTakenForWithdrawnAtOnceWhereNoRepliesCome) {
  begin(usual().minus({ProtocolFeature::reply_ack}));
  start_ring(0);
  expect_offer();
  EXPECT_EQ(state(), port::Doorbell::accepted);
  kick_.drain();
  change(false);
  expect_withdrawal();
  EXPECT_TRUE(kick_.drain());
}

TEST_F(ADoorbell, IsWithdrawnFromAQueueThatFails) {
  have_one();
  device().observer->queue_failed(QueueIndex{0}, Error{.code = Errc::peer_violation, .what = "test"});
  expect_withdrawal();
}

TEST_F(ADoorbell, IsOfferedAgainWhenRefused) {
  begin();
  start_ring(0);
  for (int i = 0; i < 3; ++i) {
    expect_offer(kLimit);
    answer(1);
    EXPECT_EQ(state(), port::Doorbell::refused);
  }
  expect_offer(kLimit);
  answer(0);
  EXPECT_EQ(state(), port::Doorbell::accepted);
}

TEST_F(ADoorbell, IsNotOfferedForEver) {
  begin();
  start_ring(0);
  int offers = 0;
  while (told(milliseconds(1500))) {
    ++offers;
    answer(1);
  }
  EXPECT_EQ(offers, Doorbells::kMostOffers);
  EXPECT_EQ(state(), port::Doorbell::refused);
}

TEST_F(ADoorbell, IsForgottenWhenTheFrontEndStopsItsRing) {
  have_one();
  stop_ring();
  EXPECT_FALSE(told());
  EXPECT_EQ(state(), port::Doorbell::none);
  start_ring(0);
  expect_offer();
}

TEST_F(ADoorbell, ThatWaitsToBeOfferedAgainIsForgottenWithItsRing) {
  begin();
  start_ring(0);
  start_ring(1);
  expect_offer();
  answer(1);
  ASSERT_TRUE(told()) << "that of queue 1";
  answer(0);
  stop_ring();
  EXPECT_FALSE(told(milliseconds(100)));
}

TEST_F(ADoorbell, IsForgottenWithStatusZero) {
  have_one();
  ask(Request::set_status, bytes_of(std::uint64_t{0}));
  EXPECT_FALSE(told());
  EXPECT_EQ(state(), port::Doorbell::none);
}

TEST_F(ADoorbell, ThatIsTakenTooLateIsWithdrawnWhenARingRuns) {
  begin();
  start_ring(0);
  expect_offer();
  stop_ring();
  answer(0);
  EXPECT_FALSE(told()) << "no ring runs";
  device().doorbells.reset();
  start_ring(0);
  expect_withdrawal();
}

TEST_F(ADoorbell, ThatIsWithdrawnBeforeItWasSentIsNeverSent) {
  device().doorbells.reset();
  begin();
  start_ring(0);
  device().observer->config_changed();
  ASSERT_TRUE(told());
  change(true);
  EXPECT_EQ(state(), port::Doorbell::offered);
  change(false);
  answer(0, BackendRequest::config_change_msg);
  EXPECT_FALSE(told());
}

TEST_F(ADoorbell, TheNextOneComesAfterTheWithdrawal) {
  have_one();
  change(true);
  expect_withdrawal();
  EXPECT_FALSE(told());
  answer(0);
  expect_offer();
}

TEST_F(ADoorbell, OfTheProcessBeforeIsWithdrawnByTheNext) {
  have_one();
  const auto done = rig_->hand_over(port::RecordFormat::current);
  ASSERT_TRUE(done) << done.error().text();
  expect_withdrawal();
  kick_.drain();
  answer(0);
  EXPECT_TRUE(kick_.drain());
  expect_offer();
  answer(0);
  EXPECT_EQ(state(), port::Doorbell::accepted);
}

TEST_F(ADoorbell, OfTheProcessBeforeThatIsNotAnsweredYetIsWithdrawnToo) {
  begin();
  start_ring(0);
  expect_offer();
  rig_->prepare = {};
  ASSERT_TRUE(rig_->hand_over(port::RecordFormat::current));
  EXPECT_FALSE(told());
  answer(0);
  expect_withdrawal();
  answer(0);
  EXPECT_FALSE(told());
  EXPECT_EQ(state(), port::Doorbell::none);
}

TEST_F(ADoorbell, IsOfferedAgainWhenAHandoverIsGivenUp) {
  have_one();
  rig_->connection->freeze();
  ParcelWriter positions;
  port().pause(positions);
  EXPECT_FALSE(told()) << "nothing is sent while the other process may be there";
  port().go_on(false);
  rig_->connection->thaw();
  expect_withdrawal();
  answer(0);
  expect_offer();
}

}  // namespace
}  // namespace causeway::vhost_user::testing

#include "vhost_user/session_fixture.h"

namespace causeway::vhost_user::testing {
namespace {

class Features : public SessionTest {};

TEST_F(Features, OffersThePortsFeaturesBit30AndALogButNoResetOfARing) {
  const auto reply = exchange(Request::get_features);
  ASSERT_TRUE(reply);
  ASSERT_TRUE(port().offered_features().has(virtio::Feature::ring_reset));
  const auto offered = port().offered_features().without(virtio::Feature::ring_reset);
  EXPECT_EQ(reply->u64(), offered.bits() | (1ULL << kProtocolFeaturesBit) | (1ULL << 26));
  EXPECT_EQ(reply->flags, wire::kVersion | wire::kReplyFlag);
}

TEST_F(Features, OffersProtocolFeaturesBeforeSetFeatures) {
  const auto reply = exchange(Request::get_protocol_features);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->u64(), offered_protocol_features().bits());
}

TEST_F(Features, GivesTheDeviceWhatWasNegotiatedWithoutBit30) {
  negotiate();
  EXPECT_EQ(device().features, virtio::FeatureSet{virtio::Feature::version_1});
}

TEST_F(Features, RefusesWhatWasNotOffered) {
  negotiate();
  EXPECT_EQ(ask(Request::set_features, bytes_of(features_with_bit30() | (1ULL << 34))), 1u);
  EXPECT_TRUE(answers());
  EXPECT_EQ(port().features(), virtio::FeatureSet{virtio::Feature::version_1});
}

TEST_F(Features, WithoutReplyAckAFailureEndsTheConnection) {
  exchange(Request::set_features, bytes_of(1ULL << 34));
  EXPECT_FALSE(is_connected());
  EXPECT_TRUE(rig_->peer->is_closed());
}

TEST_F(Features, NeedReplyWithoutReplyAckIsNotAnswered) {
  EXPECT_FALSE(exchange(Request::set_owner, {}, {}, kNeedReply));
  EXPECT_TRUE(answers());
}

TEST_F(Features, EveryMessageWithoutReplyOfItsOwnIsAcknowledgedWhenAsked) {
  negotiate();
  EXPECT_EQ(ask(Request::set_owner), 0u);
  EXPECT_EQ(ask(Request::set_features, bytes_of(features_with_bit30())), 0u);
  EXPECT_EQ(ask(Request::set_protocol_features, bytes_of(usual().bits())), 0u);
  EXPECT_EQ(ask(Request::set_vring_num, bytes_of(wire::VringState{.index = 0, .number = 64})), 0u);
  EXPECT_EQ(ask(Request::set_vring_enable, bytes_of(wire::VringState{.index = 0, .number = 1})), 0u);
}

TEST_F(Features, AMessageWithAReplyOfItsOwnGetsNoSecondOne) {
  negotiate();
  ASSERT_TRUE(exchange(Request::get_features, {}, {}, kNeedReply));
  EXPECT_FALSE(rig_->peer->receive());
}

TEST_F(Features, RefusesProtocolFeaturesThatWereNotOffered) {
  exchange(Request::set_protocol_features, bytes_of(ProtocolFeatures{ProtocolFeature::pagefault}.bits()));
  EXPECT_FALSE(is_connected());
}

TEST_F(Features, InbandIsNotOfferedUnlessConfigured) {
  exchange(Request::set_protocol_features,
           bytes_of(offered_protocol_features(configured_features(true, false)).bits()));
  EXPECT_FALSE(is_connected());
}

TEST_F(Features, InbandWithoutItsTwoPartnersEndsTheConnection) {
  start(1, {.inband_notifications = true});
  const ProtocolFeatures alone{ProtocolFeature::inband_notifications, ProtocolFeature::reply_ack};
  exchange(Request::set_protocol_features, bytes_of(alone.bits()), {}, kNeedReply);
  EXPECT_FALSE(is_connected());
}

TEST_F(Features, QueueNumCountsPairs) {
  negotiate();
  const auto reply = exchange(Request::get_queue_num);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->u64(), 2u);
}

TEST_F(Features, AMessageWhoseFeatureIsNotNegotiatedIsRefused) {
  negotiate({ProtocolFeature::reply_ack});
  EXPECT_EQ(ask(Request::net_set_mtu, bytes_of(std::uint64_t{1500})), 1u);
  EXPECT_EQ(device().mtu, 0);
  EXPECT_TRUE(answers());
}

TEST_F(Features, AValueThatCannotBeGivenEndsTheConnection) {
  negotiate({ProtocolFeature::reply_ack});
  EXPECT_FALSE(exchange(Request::get_queue_num, {}, {}, kNeedReply));
  EXPECT_FALSE(is_connected());
}

TEST_F(Features, MemorySlotsAreAConstant) {
  negotiate();
  EXPECT_EQ(exchange(Request::get_max_mem_slots)->u64(), 509u);
  give_memory();
  EXPECT_EQ(exchange(Request::get_max_mem_slots)->u64(), 509u);
}

TEST_F(Features, ResetOwnerDisablesRingsAndKeepsEverythingElse) {
  negotiate();
  give_memory();
  start_ring(0);
  exchange(Request::set_vring_enable, bytes_of(wire::VringState{.index = 0, .number = 1}));
  EXPECT_EQ(ask(Request::reset_owner), 0u);
  EXPECT_TRUE(device().runs(0));
  EXPECT_FALSE(device().queues.at(QueueIndex{0}).enabled);
  EXPECT_EQ(port().memory().regions().size(), 1u);
}

TEST_F(Features, ProtocolFeaturesStayWhileRingsRun) {
  negotiate();
  give_memory();
  start_ring(0);
  const auto same = usual();
  EXPECT_EQ(ask(Request::set_protocol_features, bytes_of(same.bits())), 0u);
  EXPECT_EQ(ask(Request::set_protocol_features, bytes_of(ProtocolFeatures{ProtocolFeature::reply_ack}.bits())), 1u);
}

TEST_F(Features, EveryMessageNotHandledIsRefusedAndTheConnectionGoesOn) {
  for (const MessageSpec& spec : frontend_messages()) {
    if (spec.support == Support::handled) continue;
    SCOPED_TRACE(spec.name);
    start(1);
    negotiate();
    const auto reply = exchange(static_cast<Request>(spec.id), Bytes(spec.min_size), {}, kNeedReply);
    const bool has_failure_form =
        spec.reply == vhost_user::Reply::ack_if_asked || spec.reply == vhost_user::Reply::u64_status;
    EXPECT_EQ(reply.has_value(), has_failure_form);
    EXPECT_EQ(is_connected(), has_failure_form);
    if (reply) {
      EXPECT_NE(reply->u64(), 0u);
    }
  }
}

TEST_F(Features, AMessageThatDoesNotExistIsRefusedAndTheConnectionGoesOn) {
  negotiate();
  for (const std::uint32_t number : {0u, 46u, 4096u, 0xffffffffu}) {
    rig_->peer->send_raw(message(number, kNeedReply, Bytes(8)));
    rig_->pump();
    const auto reply = rig_->peer->receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->request, number);
    EXPECT_NE(reply->u64(), 0u);
  }
  EXPECT_TRUE(answers());
}

}  // namespace
}  // namespace causeway::vhost_user::testing

#include "vhost_user/session_fixture.h"

namespace causeway::vhost_user::testing {
namespace {

class Rings : public SessionTest {
 protected:
  void SetUp() override {
    SessionTest::SetUp();
    negotiate();
    give_memory();
  }
  std::optional<std::uint64_t> ask_state(Request request, std::uint32_t queue, std::uint32_t number) {
    return ask(request, bytes_of(wire::VringState{.index = queue, .number = number}));
  }
  FakeDevice::Queue& queue(std::uint16_t index) { return device().queues.at(QueueIndex{index}); }
};

TEST_F(Rings, StartAtSetVringKickAndAreLookedAtOnceWithoutAKick) {
  rig_->memory.store16(GuestMemory::available(0) + 2, 3);  // the driver's available index
  set_up_ring(0);
  EXPECT_FALSE(device().runs(0));
  kick_off(0);
  ASSERT_TRUE(device().runs(0));
  EXPECT_EQ(queue(0).found_at_start, 3);
}

TEST_F(Rings, AreLookedAtAgainOnEveryStart) {
  start_ring(0);
  EXPECT_EQ(queue(0).found_at_start, 0);
  exchange(Request::get_vring_base, bytes_of(wire::VringState{.index = 0, .number = 0}));
  rig_->memory.store16(GuestMemory::available(0) + 2, 5);
  start_ring(0);
  EXPECT_EQ(queue(0).found_at_start, 5);
}

TEST_F(Rings, StartedAndEnabledAreKeptApart) {
  start_ring(0);
  EXPECT_FALSE(queue(0).enabled);
  EXPECT_EQ(ask_state(Request::set_vring_enable, 0, 1), 0u);
  EXPECT_TRUE(queue(0).enabled);
  EXPECT_EQ(ask_state(Request::set_vring_enable, 2, 1), 0u);  // not started: remembered
  start_ring(2);
  EXPECT_TRUE(queue(2).enabled);
}

TEST_F(Rings, EnabledIsRememberedOverAStop) {
  EXPECT_EQ(ask_state(Request::set_vring_enable, 0, 1), 0u);
  start_ring(0);
  exchange(Request::get_vring_base, bytes_of(wire::VringState{.index = 0, .number = 0}));
  start_ring(0);
  EXPECT_TRUE(queue(0).enabled);
}

TEST_F(Rings, GetVringBaseStopsAndTellsThePosition) {
  exchange(Request::set_vring_num, bytes_of(wire::VringState{.index = 1, .number = 128}));
  exchange(Request::set_vring_addr, bytes_of(ring_addresses(1)));
  rig_->memory.store16(GuestMemory::available(1) + 2, 77);
  rig_->memory.store16(GuestMemory::used(1) + 2, 77);
  EXPECT_EQ(ask_state(Request::set_vring_base, 1, 77), 0u);
  kick_off(1);
  ASSERT_TRUE(device().runs(1));
  const auto reply = exchange(Request::get_vring_base, bytes_of(wire::VringState{.index = 1, .number = 0}));
  ASSERT_TRUE(reply);
  const auto state = value_of<wire::VringState>(reply->payload);
  EXPECT_EQ(state.index, 1u);
  EXPECT_EQ(state.number, 77u);
  EXPECT_FALSE(device().runs(1));
  EXPECT_TRUE(port().is_suspended());
}

TEST_F(Rings, GetVringBaseOfAStoppedRingAnswersItsBase) {
  EXPECT_EQ(ask_state(Request::set_vring_base, 0, 12), 0u);
  const auto reply = exchange(Request::get_vring_base, bytes_of(wire::VringState{.index = 0, .number = 0}));
  ASSERT_TRUE(reply);
  EXPECT_EQ(value_of<wire::VringState>(reply->payload).number, 12u);
}

TEST_F(Rings, GetVringBaseOfAQueueThatDoesNotExistEndsTheConnection) {
  exchange(Request::get_vring_base, bytes_of(wire::VringState{.index = 200, .number = 0}));
  EXPECT_FALSE(is_connected());
}

TEST_F(Rings, KickAndCallReachTheDevice) {
  exchange(Request::set_vring_call, bytes_of(std::uint64_t{0}), {&call_.fd()});
  start_ring(0);
  ASSERT_TRUE(queue(0).kick && queue(0).call);
  queue(0).kick->drain();
  kick_.signal();
  EXPECT_TRUE(queue(0).kick->drain());
  call_.drain();
  queue(0).call->signal();
  EXPECT_TRUE(call_.drain());
}

TEST_F(Rings, TheCallCanChangeWhileTheRingRunsAndIsSignalledOnce) {
  start_ring(0);
  EXPECT_FALSE(queue(0).call);
  exchange(Request::set_vring_call, bytes_of(std::uint64_t{0}), {&call_.fd()});
  ASSERT_TRUE(queue(0).call);
  EXPECT_TRUE(call_.drain());
  exchange(Request::set_vring_call, bytes_of(std::uint64_t{0} | wire::kVringFdNone));
  EXPECT_FALSE(queue(0).call);
}

TEST_F(Rings, WithoutAKickDescriptorTheDevicePolls) {
  set_up_ring(0);
  EXPECT_EQ(ask(Request::set_vring_kick, bytes_of(wire::kVringFdNone)), 0u);
  ASSERT_TRUE(device().runs(0));
  EXPECT_FALSE(queue(0).kick);
}

TEST_F(Rings, AKickWithoutSetUpIsRefused) {
  EXPECT_EQ(ask(Request::set_vring_kick, bytes_of(std::uint64_t{0}), {&kick_.fd()}), 1u);
  EXPECT_FALSE(device().runs(0));
  EXPECT_TRUE(answers());
}

TEST_F(Rings, SizeAndBaseCannotChangeWhileTheRingRuns) {
  start_ring(0);
  EXPECT_EQ(ask_state(Request::set_vring_num, 0, 64), 1u);
  EXPECT_EQ(ask_state(Request::set_vring_base, 0, 9), 1u);
  EXPECT_TRUE(device().runs(0));
}

TEST_F(Rings, RefusesSizesThatTheStandardForbids) {
  for (const std::uint32_t entries : {0u, 3u, 65536u, 0xffffffffu}) {
    EXPECT_EQ(ask_state(Request::set_vring_num, 0, entries), 1u) << entries;
  }
  EXPECT_EQ(ask_state(Request::set_vring_num, 0, 32768), 0u);
}

TEST_F(Rings, RefusesABaseOfMoreThanSixteenBits) {
  EXPECT_EQ(ask_state(Request::set_vring_base, 0, 0x10000), 1u);
}

TEST_F(Rings, RefusesAddressesOutsideMemoryAndMisalignedOnes) {
  EXPECT_EQ(ask_state(Request::set_vring_num, 0, 128), 0u);
  auto addresses = ring_addresses(0);
  addresses.used = GuestMemory::kFrontendVa + GuestMemory::kSize - 8;
  EXPECT_EQ(ask(Request::set_vring_addr, bytes_of(addresses)), 1u);
  addresses = ring_addresses(0);
  addresses.descriptors += 8;
  EXPECT_EQ(ask(Request::set_vring_addr, bytes_of(addresses)), 1u);
  addresses = ring_addresses(0, 0x1000);
  EXPECT_EQ(ask(Request::set_vring_addr, bytes_of(addresses)), 1u);
}

TEST_F(Rings, RefusesLoggingThatWasNotNegotiated) {
  auto addresses = ring_addresses(0);
  addresses.flags = wire::kVringAddrLog;
  EXPECT_EQ(ask(Request::set_vring_addr, bytes_of(addresses)), 1u);
}

TEST_F(Rings, RefusesQueuesThatDoNotExist) {
  EXPECT_EQ(ask_state(Request::set_vring_num, 4, 128), 1u);
  EXPECT_EQ(ask_state(Request::set_vring_enable, 256, 1), 1u);
  EXPECT_EQ(ask(Request::set_vring_kick, bytes_of(std::uint64_t{255}), {&kick_.fd()}), 1u);
  EXPECT_TRUE(answers());
}

TEST_F(Rings, EndOfTheConnectionLeavesNothing) {
  start_ring(0);
  start_ring(1);
  rig_->peer.reset();
  rig_->pump();
  EXPECT_FALSE(is_connected());
  EXPECT_TRUE(device().queues.empty());
  EXPECT_TRUE(device().regions.empty());
  EXPECT_EQ(port().features(), virtio::FeatureSet());
  EXPECT_FALSE(port().report().attached);
}

class RingsWithoutProtocolFeatures : public SessionTest {};

TEST_F(RingsWithoutProtocolFeatures, AreEnabledAtOnce) {
  exchange(Request::set_features, bytes_of(virtio::FeatureSet{virtio::Feature::version_1}.bits()));
  give_memory();
  start_ring(0);
  EXPECT_TRUE(device().queues.at(QueueIndex{0}).enabled);
}

TEST_F(RingsWithoutProtocolFeatures, TakeNoSetVringEnable) {
  exchange(Request::set_features, bytes_of(virtio::FeatureSet{virtio::Feature::version_1}.bits()));
  exchange(Request::set_vring_enable, bytes_of(wire::VringState{.index = 0, .number = 1}));
  EXPECT_FALSE(is_connected());
}

class RingsBeforeSetFeatures : public SessionTest {};

TEST_F(RingsBeforeSetFeatures, CanBeEnabledAsQemuDoes) {
  exchange(Request::set_protocol_features, bytes_of(offered_protocol_features().bits()));
  EXPECT_EQ(ask(Request::set_vring_enable, bytes_of(wire::VringState{.index = 0, .number = 1})), 0u);
  exchange(Request::set_features, bytes_of(features_with_bit30()));
  give_memory();
  start_ring(0);
  EXPECT_TRUE(device().queues.at(QueueIndex{0}).enabled);
}

class GpaAddresses : public SessionTest {
 protected:
  void SetUp() override {
    SessionTest::SetUp();
    negotiate(offered_protocol_features());
    give_memory();
  }
};

TEST_F(GpaAddresses, AreTakenAsGuestAddresses) {
  set_up_ring(0, GuestMemory::kGpa);
  kick_off(0);
  EXPECT_TRUE(device().runs(0));
}

TEST_F(GpaAddresses, OfAnOldRustFrontEndAreSeenToBeItsOwn) {
  set_up_ring(0, GuestMemory::kFrontendVa);
  kick_off(0);
  EXPECT_TRUE(device().runs(0));
}

TEST_F(GpaAddresses, AreNotTakenWithoutTheFeature) {
  start(1);
  negotiate({ProtocolFeature::reply_ack});
  give_memory();
  EXPECT_EQ(ask(Request::set_vring_num, bytes_of(wire::VringState{.index = 0, .number = 128})), 0u);
  EXPECT_EQ(ask(Request::set_vring_addr, bytes_of(ring_addresses(0, GuestMemory::kGpa))), 1u);
}

}  // namespace
}  // namespace causeway::vhost_user::testing

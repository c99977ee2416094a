// IOTLB_MSG, in both directions: rings behind the front-end's IOMMU.

#include "vhost_user/session_iommu.h"

#include <algorithm>

namespace causeway::vhost_user::testing {
namespace {

TEST_F(Iommu, ARingThatIsNotKnownIsAskedForAndWaits) {
  kick_off_ring();
  EXPECT_FALSE(device().runs(0));
  EXPECT_TRUE(queue().waits);
  EXPECT_EQ(all_missed(), ring_pages());
  EXPECT_EQ(port().report().translation->unanswered, 3U);
  EXPECT_EQ(say(update_of(GuestMemory::descriptors(0))), 0U);
  EXPECT_EQ(say(update_of(GuestMemory::available(0))), 0U);
  EXPECT_FALSE(device().runs(0));
  EXPECT_EQ(say(update_of(GuestMemory::used(0))), 0U);
  EXPECT_TRUE(device().runs(0));
  EXPECT_FALSE(queue().waits);
  EXPECT_EQ(queue().path, port::Path::relay);
  EXPECT_EQ(all_missed(), std::vector<Miss>());
  EXPECT_EQ(port().report().translation->unanswered, 0U);
}

TEST_F(Iommu, ARingThatIsKnownStartsAtOnce) {
  start_known_ring();
  EXPECT_EQ(say(update_of(0, GuestMemory::kSize)), 0U);
  EXPECT_TRUE(device().runs(0));
  set_up_ring(1, kAt);
  kick_off(1);
  EXPECT_TRUE(device().runs(1));
  EXPECT_EQ(all_missed(), std::vector<Miss>());
}

TEST_F(Iommu, WhatIsSaidBeforeAnyRingStartsIsNotReliedOn) {
  EXPECT_EQ(say(update_of(0, GuestMemory::kSize)), 0U);
  kick_off_ring();
  EXPECT_FALSE(device().runs(0));
  EXPECT_EQ(all_missed(), ring_pages());
}

TEST_F(Iommu, APageThatIsKnownInPartIsAskedForAgain) {
  kick_off_ring();
  EXPECT_EQ(all_missed(), ring_pages());
  EXPECT_EQ(say(update_of(GuestMemory::descriptors(0), 512)), 0U);
  EXPECT_EQ(all_missed(), std::vector{ring_pages()[0]});
  learn_ring();
  EXPECT_TRUE(device().runs(0));
}

TEST_F(Iommu, ARingMayBeSetUpAgainWhileItWaits) {
  kick_off_ring();
  EXPECT_EQ(all_missed(), ring_pages());
  kick_off(0);
  EXPECT_EQ(all_missed(), std::vector<Miss>()) << "it is asked for already";
  exchange(Request::set_vring_enable, bytes_of(wire::VringState{.index = 0, .number = 1}));
  exchange(Request::set_vring_call, bytes_of(std::uint64_t{0}), {&call_.fd()});
  learn_ring();
  ASSERT_TRUE(device().runs(0));
  EXPECT_TRUE(device().queues.at(QueueIndex{0}).enabled);
  EXPECT_TRUE(device().queues.at(QueueIndex{0}).call);
}

TEST_F(Iommu, ABufferThatIsNotKnownIsAskedForOnce) {
  start_known_ring();
  offer(0, kBufferPage);
  EXPECT_EQ(missed(milliseconds(5000)), miss_of(kBufferPage, Access::read));
  EXPECT_EQ(say(update_of(kBufferPage + kPage)), 0U);
  EXPECT_EQ(missed(milliseconds(20)), std::nullopt) << "it is asked for already";
  EXPECT_EQ(say(update_of(kBufferPage)), 0U);
  EXPECT_EQ(port().report().translation->unanswered, 0U);
  EXPECT_TRUE(device().runs(0));
}

TEST_F(Iommu, AnInvalidationOfTheRingStopsItWhereItIs) {
  start_known_ring();
  offer(0, kBufferPage);
  EXPECT_EQ(missed(milliseconds(5000)), miss_of(kBufferPage, Access::read));
  EXPECT_EQ(say(update_of(kBufferPage)), 0U);
  EXPECT_EQ(say(invalidation_of(GuestMemory::used(0))), 0U);
  EXPECT_FALSE(device().runs(0));
  EXPECT_TRUE(queue().waits);
  EXPECT_EQ(all_missed(), std::vector{ring_pages()[2]});
  EXPECT_EQ(say(update_of(GuestMemory::used(0))), 0U);
  EXPECT_TRUE(device().runs(0));
  EXPECT_EQ(position(), 0U) << "the device has used nothing";
}

TEST_F(Iommu, AnInvalidationOfABufferThatTheDeviceHasTakesItBack) {
  start_known_ring();
  offer(0, kBufferPage);
  EXPECT_EQ(missed(milliseconds(5000)), miss_of(kBufferPage, Access::read));
  EXPECT_EQ(say(update_of(kBufferPage)), 0U);
  const auto end = std::chrono::steady_clock::now() + milliseconds(5000);
  virtio::ChainBatch batch;
  auto& ring = device().queues.at(QueueIndex{0}).ring;
  while (ring.take(batch, 1) == 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  ASSERT_EQ(batch.size(), 1U);
  device().last_stop.reset();
  EXPECT_EQ(say(invalidation_of(kBufferPage + kPage)), 0U);
  EXPECT_FALSE(device().last_stop) << "what it does not have";
  EXPECT_EQ(say(invalidation_of(kBufferPage)), 0U);
  EXPECT_TRUE(device().last_stop);
  EXPECT_TRUE(device().runs(0)) << "the ring itself is known";
  EXPECT_EQ(missed(milliseconds(5000)), miss_of(kBufferPage, Access::read));
}

TEST_F(Iommu, AnInvalidationOfSomethingElseLeavesTheRingAlone) {
  start_known_ring();
  device().last_stop.reset();
  EXPECT_EQ(say(invalidation_of(kBufferPage, kPage * 100)), 0U);
  EXPECT_FALSE(device().last_stop);
  EXPECT_TRUE(device().runs(0));
}

TEST_F(Iommu, AnInvalidationOfEverythingForgetsAll) {
  start_known_ring();
  wire::Iotlb all = invalidation_of(0, ~0ULL);
  all.iova = 0;
  EXPECT_EQ(say(all), 0U);
  EXPECT_EQ(known(), 0U);
  EXPECT_FALSE(device().runs(0));
  EXPECT_EQ(all_missed(), ring_pages());
}

TEST_F(Iommu, WhatIsWrongIsRefusedAndNothingChanges) {
  start_known_ring();
  const auto entries = known();
  device().last_stop.reset();
  for (const std::uint8_t type : std::initializer_list<std::uint8_t>{0, wire::kIotlbMiss, 4, 5, 6, 255}) {
    wire::Iotlb message = invalidation_of(0);
    message.type = type;
    EXPECT_EQ(say(message), 1U) << "type " << unsigned{type};
  }
  for (const std::uint8_t access : std::initializer_list<std::uint8_t>{4, 255}) {
    wire::Iotlb message = update_of(0);
    message.access = access;
    EXPECT_EQ(say(message), 1U) << "access " << unsigned{access};
  }
  EXPECT_EQ(say(update_of(0, 0)), 1U) << "empty";
  EXPECT_EQ(say(invalidation_of(0, 0)), 1U) << "empty";
  EXPECT_EQ(say(update_of(0, ~0ULL)), 1U) << "wraps";
  EXPECT_EQ(say(invalidation_of(0, ~0ULL)), 1U) << "wraps";
  EXPECT_EQ(say(update_of(GuestMemory::kSize)), 1U) << "leads nowhere";
  EXPECT_EQ(say(update_of(GuestMemory::kSize - kPage, 2 * kPage)), 1U) << "leads out of memory";
  EXPECT_EQ(known(), entries);
  EXPECT_FALSE(device().last_stop);
  EXPECT_TRUE(device().runs(0));
  EXPECT_TRUE(answers());
}

TEST_F(Iommu, TheBytesBehindTheTypeMayBeMissing) {
  EXPECT_EQ(say(update_of(0), 26), 0U);
  EXPECT_EQ(known(), 1U);
  EXPECT_EQ(say(update_of(kPage), 32), 0U);
  EXPECT_EQ(say(update_of(2 * kPage), 25), 1U);
  EXPECT_EQ(say(update_of(2 * kPage), 33), 1U);
  EXPECT_TRUE(answers());
}

TEST_F(Iommu, AnAnswerIsDueOnceAlsoWhereOneIsAskedFor) {
  EXPECT_EQ(ask(Request::iotlb_msg, bytes_of(update_of(0))), 0U);
  EXPECT_EQ(rig_->peer->receive().has_value(), false);
}

TEST_F(Iommu, ARingThatTheIommuDeniesFails) {
  kick_off_ring();
  EXPECT_EQ(all_missed(), ring_pages());
  EXPECT_EQ(say(update_of(0, GuestMemory::kSize, Access::read)), 0U);
  EXPECT_FALSE(device().runs(0));
  EXPECT_FALSE(queue().waits);
  EXPECT_TRUE(queue().failed);
  EXPECT_TRUE(answers());
  // It stays so, whatever becomes known.
  EXPECT_EQ(say(update_of(0, GuestMemory::kSize)), 0U);
  EXPECT_TRUE(queue().failed);
  EXPECT_EQ(position(), 0U);
}

TEST_F(Iommu, WhatIsNotAnsweredIsAskedForAgain) {
  kick_off_ring();
  EXPECT_EQ(all_missed(), ring_pages());
  EXPECT_EQ(say(update_of(GuestMemory::available(0))), 0U);
  std::vector<Miss> again;
  for (int i = 0; i < 2; ++i) {
    if (const auto miss = missed(milliseconds(5000))) again.push_back(*miss);
  }
  EXPECT_EQ(again, (std::vector{ring_pages()[0], ring_pages()[2]}));
}

TEST_F(Iommu, ThePositionOfARingThatWaitsIsWhereItWouldHaveStarted) {
  for (const std::uint64_t area : {GuestMemory::used(0), GuestMemory::available(0)}) rig_->memory.store16(area + 2, 7);
  set_up_ring(0, kAt);
  exchange(Request::set_vring_base, bytes_of(wire::VringState{.index = 0, .number = 7}));
  kick_off(0);
  EXPECT_EQ(position(), 7U);
  EXPECT_FALSE(device().runs(0));
  EXPECT_EQ(port().report().translation->unanswered, 0U) << "nobody waits any more";
}

TEST_F(Iommu, WhatWasKnownIsForgottenWhenTheLastRingStops) {
  start_known_ring();
  EXPECT_NE(known(), 0U);
  stop_ring();
  EXPECT_EQ(known(), 0U);
  kick_off(0);
  EXPECT_FALSE(device().runs(0));
  EXPECT_EQ(all_missed(), ring_pages());
}

TEST_F(Iommu, MemoryThatGoesTakesItsTranslationsAlong) {
  start_known_ring();
  const auto region = bytes_of(std::uint64_t{0}, GuestMemory::region());
  EXPECT_EQ(ask(Request::rem_mem_reg, region), 0U);
  EXPECT_EQ(known(), 0U);
  EXPECT_TRUE(queue().waits) << "for what may lie elsewhere";
  EXPECT_FALSE(device().runs(0));
  EXPECT_EQ(say(update_of(0)), 1U) << "leads nowhere now";
  EXPECT_TRUE(answers());
}

TEST_F(Iommu, AnotherProcessAsksAnew) {
  start_known_ring();
  const auto handed_over = rig_->hand_over(port::RecordFormat::current);
  ASSERT_TRUE(handed_over) << handed_over.error().text();
  rig_->pump();
  EXPECT_FALSE(device().runs(0));
  EXPECT_EQ(all_missed(), ring_pages());
  learn_ring();
  EXPECT_TRUE(device().runs(0));
}

/// ACCESS_PLATFORM alone means that the platform may restrict addresses, and says nothing of who translates them.
class NoIommu : public ChannelTest {
 protected:
  std::optional<std::uint64_t> say(std::uint8_t type) {
    const wire::Iotlb message{
        .iova = kAt, .size = kPage, .user_address = GuestMemory::kFrontendVa, .access = 3, .type = type, .padding = {}};
    const auto reply = exchange(Request::iotlb_msg, bytes_of(message));
    return reply ? std::optional(reply->u64()) : std::nullopt;
  }
};

TEST_F(NoIommu, WithoutAccessPlatformTranslationsAreRefused) {
  begin();
  start_ring(0);
  EXPECT_EQ(say(wire::kIotlbUpdate), 1U);
  EXPECT_EQ(say(wire::kIotlbInvalidate), 1U);
  EXPECT_TRUE(device().runs(0));
  EXPECT_EQ(port().report().queues[0].path, port::Path::direct);
  EXPECT_TRUE(answers());
}

TEST_F(NoIommu, WithoutAChannelAddressesAreTheGuests) {
  negotiate(usual().minus({ProtocolFeature::backend_req}));
  give_memory();
  exchange(Request::set_features,
           bytes_of(features_with_bit30() | virtio::FeatureSet{virtio::Feature::access_platform}.bits()));
  start_ring(0);
  EXPECT_EQ(port().report().queues[0].path, port::Path::direct);
  EXPECT_EQ(say(wire::kIotlbUpdate), 1U);
  EXPECT_TRUE(answers());
}

}  // namespace
}  // namespace causeway::vhost_user::testing

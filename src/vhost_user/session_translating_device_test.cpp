// Behind an IOMMU with a Device that translates some of its queues itself: those are not relayed.

#include "vhost_user/session_iommu.h"

namespace causeway::vhost_user::testing {
namespace {

using memory::IovaRange;

constexpr QueueIndex kFirst{0};
constexpr QueueIndex kSecond{1};
constexpr std::uint64_t kLogBytes = (GuestMemory::kGpa + GuestMemory::kSize) / memory::DirtyLog::kPage / 8 + 1;

class TranslatingDevice : public Iommu {
 protected:
  void SetUp() override {
    Iommu::SetUp();
    device().translating = {kFirst};
  }
  FakeDevice::Queue& on_device(QueueIndex queue = kFirst) { return device().queues.at(queue); }
  port::Path path(std::uint16_t queue = 0) { return port().report().queues[queue].path; }
  std::uint16_t take() {
    batch_.clear();
    return on_device().ring.take(batch_, 8);
  }
  void report_miss(QueueIndex queue, std::vector<Miss> misses) {
    device().observer->translations_missed(queue, misses);
  }
  static IovaRange range_of(std::uint64_t offset, std::uint64_t size = kPage) {
    return {.first = Iova(kAt + offset), .size = size};
  }
  static bool is(const std::optional<IovaRange>& gone, const IovaRange& range) {
    return gone && gone->first == range.first && gone->size == range.size;
  }
  /// The second queue too, of whose ring all is told.
  void start_second() {
    set_up_ring(1, kAt);
    kick_off(1);
    ASSERT_EQ(say(update_of(0x3000, 0x3000)), 0U);
    ASSERT_TRUE(device().runs(1));
    all_missed();
  }

  virtio::ChainBatch batch_;
};

TEST_F(TranslatingDevice, WorksItsQueueByItself) {
  start_known_ring();
  EXPECT_EQ(path(), port::Path::direct);
  EXPECT_TRUE(on_device().is_translated);
  // The Device refuses a translated queue before it has translations.
  ASSERT_FALSE(device().told.empty());
  EXPECT_EQ(device().told.front().gone, std::nullopt);
  EXPECT_TRUE(device().told.front().running.empty());
  EXPECT_EQ(device().translations->is_translated(), true);
  EXPECT_EQ(all_missed(), std::vector<Miss>());
}

TEST_F(TranslatingDevice, WhatItMissesIsAskedForOnce) {
  start_known_ring();
  offer(0, kBufferPage);
  EXPECT_EQ(take(), 0U);
  const auto misses = on_device().ring.take_misses();
  ASSERT_EQ(misses, std::vector{miss_of(kBufferPage, Access::read)});
  report_miss(kFirst, misses);
  EXPECT_EQ(all_missed(), misses);
  report_miss(kFirst, misses);
  EXPECT_EQ(all_missed(), std::vector<Miss>());
  EXPECT_EQ(port().report().translation->unanswered, 1U);
  EXPECT_TRUE(device().runs(0));
}

TEST_F(TranslatingDevice, WhatIsAnsweredReachesIt) {
  start_known_ring();
  offer(0, kBufferPage);
  EXPECT_EQ(take(), 0U);
  report_miss(kFirst, on_device().ring.take_misses());
  all_missed();
  device().told.clear();
  device().last_stop.reset();
  EXPECT_EQ(say(update_of(kBufferPage, kPage, Access::read)), 0U);
  ASSERT_EQ(device().told.size(), 1U);
  EXPECT_EQ(device().told[0].gone, std::nullopt);
  EXPECT_EQ(device().told[0].running, std::set{kFirst});
  EXPECT_FALSE(device().last_stop) << "it goes on where it is";
  EXPECT_EQ(port().report().translation->unanswered, 0U);
  ASSERT_EQ(take(), 1U);
  EXPECT_EQ(batch_[0].readable_bytes, 100U);
}

TEST_F(TranslatingDevice, IsAskedNothingOfAMissThatIsAnsweredMeanwhile) {
  start_known_ring();
  EXPECT_EQ(say(update_of(kBufferPage)), 0U);
  report_miss(kFirst, {miss_of(kBufferPage, Access::read)});
  EXPECT_EQ(all_missed(), std::vector<Miss>());
}

TEST_F(TranslatingDevice, IsNotListenedToForAQueueThatItDoesNotTranslate) {
  report_miss(kFirst, {miss_of(kBufferPage, Access::read)});
  start_known_ring();
  start_second();
  report_miss(kSecond, {miss_of(kBufferPage, Access::read)});
  report_miss(QueueIndex{3}, {miss_of(kBufferPage, Access::read)});
  EXPECT_EQ(all_missed(), std::vector<Miss>());
  stop_ring();
  report_miss(kFirst, {miss_of(kBufferPage, Access::read)});
  EXPECT_EQ(all_missed(), std::vector<Miss>());
}

TEST_F(TranslatingDevice, AnInvalidationElsewhereReachesItWithItsRange) {
  start_known_ring();
  EXPECT_EQ(say(update_of(kBufferPage, 4 * kPage)), 0U);
  device().told.clear();
  device().last_stop.reset();
  EXPECT_EQ(say(invalidation_of(kBufferPage, 2 * kPage)), 0U);
  ASSERT_EQ(device().told.size(), 1U);
  EXPECT_TRUE(is(device().told[0].gone, range_of(kBufferPage, 2 * kPage)));
  EXPECT_FALSE(device().last_stop);
  EXPECT_TRUE(device().runs(0));
  offer(0, kBufferPage);
  EXPECT_EQ(take(), 0U) << "it is known no more";
  EXPECT_EQ(on_device().ring.take_misses(), std::vector{miss_of(kBufferPage, Access::read)});
}

TEST_F(TranslatingDevice, AnInvalidationOfItsRingStopsItUntilThatIsKnownAgain) {
  device().translating = {kFirst, kSecond};
  start_known_ring();
  start_second();
  offer(0, kBufferPage);
  EXPECT_EQ(say(update_of(kBufferPage)), 0U);
  ASSERT_EQ(take(), 1U);
  on_device().ring.use(batch_[0], 0);
  on_device().ring.publish();
  device().told.clear();
  EXPECT_EQ(say(invalidation_of(GuestMemory::used(0))), 0U);
  EXPECT_FALSE(device().runs(0));
  EXPECT_TRUE(queue().waits);
  ASSERT_EQ(device().told.size(), 1U) << "the other queue goes on";
  EXPECT_TRUE(is(device().told[0].gone, range_of(GuestMemory::used(0))));
  EXPECT_EQ(device().told[0].running, std::set{kSecond}) << "the ring was in use when its address went";
  EXPECT_EQ(all_missed(), std::vector{ring_pages()[2]});
  EXPECT_EQ(say(update_of(GuestMemory::used(0))), 0U);
  ASSERT_TRUE(device().runs(0));
  EXPECT_TRUE(on_device().is_translated);
  EXPECT_EQ(path(), port::Path::direct);
  EXPECT_EQ(take(), 0U) << "it was used before";
  EXPECT_EQ(position(), 1U);
}

TEST_F(TranslatingDevice, EachPartOfItsRingCounts) {
  start_known_ring();
  for (std::size_t i = 0; i < ring_pages().size(); ++i) {
    EXPECT_EQ(say(invalidation_of(ring_pages()[i].at.value() - kAt)), 0U);
    EXPECT_FALSE(device().runs(0)) << i;
    learn_ring();
    EXPECT_TRUE(device().runs(0)) << i;
  }
}

TEST_F(TranslatingDevice, AnotherQueueOfItsIsRelayed) {
  start_known_ring();
  start_second();
  EXPECT_EQ(path(0), port::Path::direct);
  EXPECT_EQ(path(1), port::Path::relay);
  EXPECT_FALSE(on_device(kSecond).is_translated);
  device().told.clear();
  device().last_stop.reset();
  EXPECT_EQ(say(invalidation_of(kBufferPage)), 0U);
  EXPECT_FALSE(device().last_stop);
  EXPECT_EQ(device().told.size(), 1U);
  EXPECT_EQ(say(invalidation_of(GuestMemory::used(1))), 0U);
  EXPECT_TRUE(device().runs(0));
  EXPECT_FALSE(device().runs(1));
  EXPECT_EQ(say(update_of(GuestMemory::used(1))), 0U);
  EXPECT_TRUE(device().runs(1));
  EXPECT_EQ(path(1), port::Path::relay);
}

TEST_F(TranslatingDevice, IsNotToldWhereAllItsQueuesAreRelayed) {
  device().translating = {kSecond};
  start_known_ring();
  EXPECT_EQ(path(), port::Path::relay);
  EXPECT_EQ(say(update_of(kBufferPage)), 0U);
  EXPECT_EQ(say(invalidation_of(kBufferPage)), 0U);
  EXPECT_TRUE(device().told.empty());
}

TEST_F(TranslatingDevice, ThatRefusesWhatItIsToldFailsItsQueueAlone) {
  start_known_ring();
  start_second();
  device().refuses_translations = true;
  EXPECT_EQ(say(update_of(kBufferPage)), 0U);
  EXPECT_TRUE(port().report().queues[0].failed);
  EXPECT_FALSE(port().report().queues[1].failed);
  EXPECT_EQ(say(invalidation_of(kBufferPage)), 0U);
  EXPECT_TRUE(answers());
}

/// A queue that is broken may have begun something that it has not finished.
TEST_F(TranslatingDevice, IsToldWhatIsGoneThoughItsQueueHasFailed) {
  start_known_ring();
  EXPECT_EQ(say(update_of(kBufferPage)), 0U);
  device().observer->queue_failed(kFirst, Error{.code = Errc::peer_violation, .what = "a broken ring"});
  ASSERT_TRUE(port().report().queues[0].failed);
  device().told.clear();
  EXPECT_EQ(say(invalidation_of(kBufferPage)), 0U);
  ASSERT_EQ(device().told.size(), 1U);
  EXPECT_TRUE(is(device().told[0].gone, range_of(kBufferPage)));
  EXPECT_TRUE(port().report().queues[0].failed);
}

TEST_F(TranslatingDevice, StopsAroundAChangeOfMemory) {
  start_known_ring();
  EXPECT_EQ(ask(Request::rem_mem_reg, bytes_of(std::uint64_t{0}, GuestMemory::region())), 0U);
  EXPECT_FALSE(device().runs(0));
  EXPECT_TRUE(queue().waits);
  EXPECT_TRUE(device().regions.empty());
}

TEST_F(TranslatingDevice, OfAnotherProcessIsToldAnew) {
  rig_->prepare = [](FakeDevice& next) { next.translating = {kFirst}; };
  start_known_ring();
  ASSERT_TRUE(rig_->hand_over(port::RecordFormat::current));
  rig_->pump();
  EXPECT_FALSE(device().runs(0));
  EXPECT_EQ(all_missed(), ring_pages());
  learn_ring();
  ASSERT_TRUE(device().runs(0));
  EXPECT_TRUE(on_device().is_translated);
  EXPECT_EQ(path(), port::Path::direct);
}

/// With a log for which there is room.
class LoggingDevice : public TranslatingDevice {
 protected:
  std::uint64_t begin_log() {
    const auto given =
        exchange(Request::set_log_base, bytes_of(wire::LogArea{.size = kLogBytes, .offset = 0}), {&file_});
    EXPECT_TRUE(given);
    constexpr std::uint64_t kLogAll = std::uint64_t{1} << 26;
    return ask(Request::set_features, bytes_of(features_behind_iommu() | kLogAll)).value_or(~0ULL);
  }
  bool is_marked(std::uint64_t offset) {
    const auto mapping = *Mapping::map(file_, 0, kLogBytes);
    const std::uint64_t bit = (GuestMemory::kGpa + offset) / memory::DirtyLog::kPage;
    const auto bits = memory::GuestSpan::over({mapping->data(), mapping->size()});
    return ((bits.fetch<std::uint8_t>(bit / 8) >> (bit % 8)) & 1) != 0;
  }

  OwnedFd file_ = *make_memfd("log", kLogBytes);
  Census with_log_ = before_ = Census::take();
};

TEST_F(LoggingDevice, StaysDirectWhileItLogs) {
  device().log_dirty();
  start_known_ring();
  EXPECT_FALSE(on_device().is_logged);
  EXPECT_EQ(begin_log(), 0U);
  ASSERT_TRUE(device().runs(0));
  EXPECT_EQ(path(), port::Path::direct);
  EXPECT_TRUE(on_device().is_translated);
  EXPECT_TRUE(on_device().is_logged);
  // By the guest's addresses, not by those of the driver's.
  EXPECT_TRUE(is_marked(GuestMemory::used(0)));
  EXPECT_FALSE(is_marked(GuestMemory::descriptors(0)));
  EXPECT_FALSE(is_marked(kBufferPage));
}

TEST_F(LoggingDevice, IsRelayedWhereItKeepsNoLog) {
  start_known_ring();
  EXPECT_EQ(begin_log(), 0U);
  ASSERT_TRUE(device().runs(0));
  EXPECT_EQ(path(), port::Path::relay);
  EXPECT_FALSE(on_device().is_translated);
}

}  // namespace
}  // namespace causeway::vhost_user::testing

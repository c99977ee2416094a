// In-flight memory as a front-end gives it, its bytes written by hand after QEMU's vhost-user.rst.
#include "vhost_user/session_fixture.h"

#include <unistd.h>

#include <optional>

namespace causeway::vhost_user::testing {
namespace {

constexpr std::uint16_t kQueues = 2;
constexpr std::uint16_t kEntries = 128;
constexpr std::uint64_t kArea = 16 + 16 * kEntries + 48;  // QueueRegionSplit, up to a multiple of 64
constexpr std::uint64_t kRegion = kQueues * kArea;
static_assert(kArea % 64 == 0);

/// struct DescStateSplit
struct Entry {
  std::uint8_t inflight;
  std::uint8_t padding[5];
  std::uint16_t next;
  std::uint64_t counter;
};
static_assert(sizeof(Entry) == 16);

/// struct QueueRegionSplit, but for the entries
struct Head {
  std::uint64_t features;
  std::uint16_t version;
  std::uint16_t desc_num;
  std::uint16_t last_batch_head;
  std::uint16_t used_idx;
};
static_assert(sizeof(Head) == 16);

class Inflight : public SessionTest {
 protected:
  void SetUp() override {
    SessionTest::SetUp();
    negotiate();
    give_memory();
  }
  void TearDown() override {
    file_.reset();
    SessionTest::TearDown();
  }
  static Bytes description(std::uint64_t size, std::uint16_t queues = kQueues, std::uint16_t entries = kEntries) {
    return bytes_of(size, std::uint64_t{0}, queues, entries, std::uint32_t{0});
  }
  template <class T>
  void put(std::uint64_t offset, const T& value) {
    ASSERT_EQ(::pwrite(file_->borrow(), &value, sizeof value, static_cast<off_t>(offset)), sizeof value);
  }
  /// Of queue 0: two chains in flight; the ring has used ten.
  void leave_two_in_flight() {
    put(0, Head{.features = 0, .version = 1, .desc_num = kEntries, .last_batch_head = 0, .used_idx = 10});
    put(16 + 16 * 3, Entry{.inflight = 1, .padding = {}, .next = 0, .counter = 12});
    put(16 + 16 * 5, Entry{.inflight = 1, .padding = {}, .next = 0, .counter = 11});
    rig_->memory.store16(GuestMemory::available(0) + 2, 12);
    rig_->memory.store16(GuestMemory::used(0) + 2, 10);
  }

  std::optional<OwnedFd> file_ = *make_memfd("inflight", kRegion);
};

TEST_F(Inflight, MemoryIsMadeForAsManyQueuesAsAsked) {
  const auto reply = exchange(Request::get_inflight_fd, description(0));
  ASSERT_TRUE(reply);
  ASSERT_EQ(reply->payload.size(), 24U);
  EXPECT_EQ(value_of<std::uint64_t>(reply->payload), kRegion);
  EXPECT_EQ(value_of<std::uint16_t>(std::span(reply->payload).subspan(16)), kQueues);
  EXPECT_EQ(value_of<std::uint16_t>(std::span(reply->payload).subspan(18)), kEntries);
}

TEST_F(Inflight, TheReplyHasThePaddingOfTheRequest) {
  auto wanted = description(0);
  wanted.resize(20);
  const auto reply = exchange(Request::get_inflight_fd, wanted);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->payload.size(), 20U);
}

TEST_F(Inflight, WhatWasInFlightIsTakenAgain) {
  leave_two_in_flight();
  EXPECT_EQ(ask(Request::set_inflight_fd, description(kRegion), {&*file_}), 0U);
  start_ring(0);
  EXPECT_EQ(device().queues.at(QueueIndex{0}).found_at_start, 2U);
  // Drained or not, the answer says where the next one goes on.
  const auto state = device().queues.at(QueueIndex{0}).ring.state();
  ASSERT_EQ(state.in_flight.size(), 2U);
  EXPECT_EQ(state.in_flight[0].id, 5U);
  EXPECT_EQ(state.in_flight[1].id, 3U);
  EXPECT_EQ(state.avail, 12U);
}

TEST_F(Inflight, TheHeadOfTheFirstRequestIsNotForgotten) {
  // Nothing has completed yet, and descriptor 0 is in flight.
  put(0, Head{.features = 0, .version = 1, .desc_num = kEntries, .last_batch_head = 0, .used_idx = 0});
  put(16, Entry{.inflight = 1, .padding = {}, .next = 0, .counter = 1});
  rig_->memory.store16(GuestMemory::available(0) + 2, 1);
  EXPECT_EQ(ask(Request::set_inflight_fd, description(kRegion), {&*file_}), 0U);
  start_ring(0);
  EXPECT_EQ(device().queues.at(QueueIndex{0}).found_at_start, 1U);
}

TEST_F(Inflight, TheLastBatchWasAnsweredWhenTheRingSaysSo) {
  leave_two_in_flight();
  put(0, Head{.features = 0, .version = 1, .desc_num = kEntries, .last_batch_head = 5, .used_idx = 9});
  EXPECT_EQ(ask(Request::set_inflight_fd, description(kRegion), {&*file_}), 0U);
  start_ring(0);
  const auto state = device().queues.at(QueueIndex{0}).ring.state();
  ASSERT_EQ(state.in_flight.size(), 1U);
  EXPECT_EQ(state.in_flight[0].id, 3U);
}

TEST_F(Inflight, TheMessageSaysWhetherAStopDrains) {
  EXPECT_EQ(ask(Request::set_inflight_fd, description(kRegion), {&*file_}), 0U);
  const Bytes queue = bytes_of(wire::VringState{.index = 0, .number = 0});
  start_ring(0);
  ASSERT_TRUE(exchange(Request::get_vring_base, queue));
  EXPECT_EQ(device().last_stop, vdpa::StopMode::drain);
  start_ring(0);
  ASSERT_TRUE(exchange(Request::get_vring_base_skip_drain, queue));
  EXPECT_EQ(device().last_stop, vdpa::StopMode::leave);
}

TEST_F(Inflight, MemoryTooSmallIsRefused) {
  EXPECT_EQ(ask(Request::set_inflight_fd, description(kRegion - 64), {&*file_}), 1U);
  EXPECT_EQ(ask(Request::set_inflight_fd, description(kRegion, kQueues, 100), {&*file_}), 1U);
  EXPECT_EQ(ask(Request::set_inflight_fd, description(kRegion, 0), {&*file_}), 1U);
  EXPECT_TRUE(answers());
}

TEST_F(Inflight, ARecordThatContradictsTheRingStopsItsQueue) {
  leave_two_in_flight();
  put(0, Head{.features = 0, .version = 1, .desc_num = kEntries, .last_batch_head = 0, .used_idx = 5000});
  EXPECT_EQ(ask(Request::set_inflight_fd, description(kRegion), {&*file_}), 0U);
  set_up_ring(0);
  EXPECT_EQ(ask(Request::set_vring_kick, bytes_of(std::uint64_t{0}), {&kick_.fd()}), 1U);
  EXPECT_FALSE(device().runs(0));
  start_ring(1);
}

TEST_F(Inflight, AResetOfTheDriversEndsTheRecord) {
  leave_two_in_flight();
  put(16 + 16 * 3, Entry{});
  put(16 + 16 * 5, Entry{});
  EXPECT_EQ(ask(Request::set_inflight_fd, description(kRegion), {&*file_}), 0U);
  start_ring(0);
  EXPECT_EQ(ask(Request::reset_device), 0U);
  std::uint16_t version = 1;
  ASSERT_EQ(::pread(file_->borrow(), &version, sizeof version, 8), 2);
  EXPECT_EQ(version, 0U);
}

}  // namespace
}  // namespace causeway::vhost_user::testing

#include "vhost_user/session_fixture.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
#include <future>

namespace causeway::vhost_user::testing {
namespace {

constexpr std::uint64_t kAway = 5 * kPage;  ///< where in the memory a page is missing
constexpr std::uint8_t kContents = 0x5a;
constexpr milliseconds kLimit(60'000);

/// The front-end does what QEMU does at the destination of a migration.
class PostCopy : public SessionTest {
 protected:
  void SetUp() override {
    start(2, {.postcopy = true});
    negotiate(offered_protocol_features({ProtocolFeature::pagefault}).minus({ProtocolFeature::gpa_addresses}));
  }
  void TearDown() override {
    faults_.reset();
    SessionTest::TearDown();
  }
  void advise() {
    auto reply = exchange(Request::postcopy_advise);
    ASSERT_TRUE(reply);
    EXPECT_TRUE(reply->payload.empty());
    ASSERT_EQ(reply->fds.size(), 1U);
    faults_.emplace(std::move(reply->fds.front()));
  }
  std::optional<Reply> propose() {
    const wire::MemoryTableHead head{.count = 1, .padding = 0};
    return exchange(Request::set_mem_table, bytes_of(head, GuestMemory::region()), {&rig_->memory.file()});
  }
  void acknowledge() { EXPECT_FALSE(exchange(Request::set_mem_table, bytes_of(std::uint64_t{0}))); }
  void arrive() {
    advise();
    EXPECT_EQ(ask(Request::postcopy_listen), 0U);
    const auto reply = propose();
    ASSERT_TRUE(reply && reply->payload.size() == sizeof(wire::MemoryTableHead) + sizeof(wire::Region));
    wire::Region region;
    std::memcpy(&region, reply->payload.data() + sizeof(wire::MemoryTableHead), sizeof region);
    const auto sent = GuestMemory::region();
    EXPECT_EQ(region.guest_address, sent.guest_address);
    EXPECT_EQ(region.size, sent.size);
    EXPECT_TRUE(device().regions.empty()) << "in use before it was acknowledged";
    address_ = region.user_address;
    acknowledge();
    ASSERT_EQ(device().regions.size(), 1U);
  }
  /// What a worker finds there, once it may go on.
  std::future<std::uint8_t> look() {
    const auto mapping = device().regions.front().mapping;
    return std::async(std::launch::async, [mapping] {
      return memory::GuestSpan::over({mapping->data(), mapping->size()}).fetch<std::uint8_t>(kAway);
    });
  }
  /// The address of the next fault.
  std::uint64_t await_fault() {
    pollfd polled{.fd = faults_->borrow(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&polled, 1, kLimit.count()), 1);
    uffd_msg fault{};
    EXPECT_EQ(::read(faults_->borrow(), &fault, sizeof fault), static_cast<ssize_t>(sizeof fault));
    EXPECT_EQ(fault.event, UFFD_EVENT_PAGEFAULT);
    return fault.arg.pagefault.address;
  }

  std::optional<OwnedFd> faults_;
  std::uint64_t address_ = 0;
};

TEST_F(PostCopy, APageIsAskedForWhenItIsTouched) {
  arrive();
  EXPECT_TRUE(port().is_migrating());
  auto looked = look();
  EXPECT_EQ(await_fault(), address_ + kAway);
  EXPECT_EQ(looked.wait_for(milliseconds(0)), std::future_status::timeout);
  ASSERT_EQ(::pwrite(rig_->memory.file().borrow(), &kContents, 1, kAway), 1);
  uffdio_range page{.start = address_ + kAway, .len = kPage};
  ASSERT_EQ(::ioctl(faults_->borrow(), UFFDIO_WAKE, &page), 0);
  EXPECT_EQ(looked.get(), kContents);

  EXPECT_EQ(ask(Request::postcopy_end), 0U);
  EXPECT_FALSE(port().is_migrating());
  EXPECT_EQ(ask(Request::postcopy_end), 0U) << "as a front-end with several queue pairs says it";
}

TEST_F(PostCopy, WhatNeverCameReadsAsZerosAfterTheEnd) {
  arrive();
  auto looked = look();
  await_fault();
  EXPECT_EQ(ask(Request::postcopy_end), 0U);
  EXPECT_EQ(looked.get(), 0U);
}

TEST_F(PostCopy, NobodyWaitsForAFrontEndThatHasGone) {
  arrive();
  auto looked = look();
  await_fault();
  // Nobody here looks at the socket, as if the control thread were the one that waits; and the descriptor that faults
  // are read from is still open elsewhere.
  rig_->peer.reset();
  EXPECT_EQ(looked.get(), 0U);
  rig_->pump();
  EXPECT_FALSE(is_connected());
}

TEST_F(PostCopy, ASecondTableIsAnsweredAtTheSameAddresses) {
  arrive();
  const auto reply = propose();
  ASSERT_TRUE(reply);
  wire::Region region;
  std::memcpy(&region, reply->payload.data() + sizeof(wire::MemoryTableHead), sizeof region);
  EXPECT_EQ(region.user_address, address_);
  acknowledge();
  auto looked = look();
  await_fault();
  EXPECT_EQ(ask(Request::postcopy_end), 0U);
  EXPECT_EQ(looked.get(), 0U);
}

TEST_F(PostCopy, AdvisedAgainTheNewDescriptorIsTheOneThatHears) {
  advise();
  arrive();
  auto looked = look();
  EXPECT_EQ(await_fault(), address_ + kAway);
  rig_.reset();
  EXPECT_EQ(looked.get(), 0U);
}

TEST_F(PostCopy, BeforeListenATableIsInForceAtOnce) {
  advise();
  give_memory();
  EXPECT_TRUE(answers());
}

TEST_F(PostCopy, ListeningMustBeAdvised) {
  EXPECT_EQ(ask(Request::postcopy_listen), 1U);
  EXPECT_TRUE(answers());
}

TEST_F(PostCopy, NothingMayComeBeforeTheAcknowledgement) {
  advise();
  EXPECT_EQ(ask(Request::postcopy_listen), 0U);
  ASSERT_TRUE(propose());
  exchange(Request::get_features);
  EXPECT_FALSE(is_connected());
}

TEST_F(PostCopy, NorWhatMakesNoSense) {
  advise();
  EXPECT_EQ(ask(Request::postcopy_listen), 0U);
  ASSERT_TRUE(propose());
  exchange(Request::set_vring_num, Bytes(3));
  EXPECT_FALSE(is_connected());
}

TEST_F(PostCopy, AnAcknowledgementThatIsATableEndsTheConnection) {
  advise();
  EXPECT_EQ(ask(Request::postcopy_listen), 0U);
  ASSERT_TRUE(propose());
  EXPECT_FALSE(propose());
  EXPECT_FALSE(is_connected());
}

TEST_F(PostCopy, ATableThatCannotBeHadEndsTheConnection) {
  advise();
  EXPECT_EQ(ask(Request::postcopy_listen), 0U);
  auto region = GuestMemory::region();
  region.size = GuestMemory::kSize + 1;
  const wire::MemoryTableHead head{.count = 1, .padding = 0};
  EXPECT_FALSE(exchange(Request::set_mem_table, bytes_of(head, region), {&rig_->memory.file()}));
  EXPECT_FALSE(is_connected());
}

TEST_F(PostCopy, IsRefusedWhereItWasNotNegotiated) {
  start(2);
  negotiate();
  EXPECT_EQ(ask(Request::postcopy_listen), 1U);
  EXPECT_FALSE(exchange(Request::postcopy_advise));
  EXPECT_FALSE(is_connected()) << "there is no way to say no";
}

}  // namespace
}  // namespace causeway::vhost_user::testing

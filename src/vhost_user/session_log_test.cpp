#include "vhost_user/session_fixture.h"

namespace causeway::vhost_user::testing {
namespace {

constexpr std::uint64_t kLogAll = std::uint64_t{1} << 26;
constexpr std::uint64_t kEnough = (GuestMemory::kGpa + GuestMemory::kSize) / memory::DirtyLog::kPage / 8 + 1;

/// One ring runs.
class Log : public SessionTest {
 protected:
  void SetUp() override {
    SessionTest::SetUp();
    negotiate();
    give_memory();
    start_ring(0);
  }
  /// The status that a log is answered with.
  std::optional<std::uint64_t> give_log(std::uint64_t size = kEnough, std::uint64_t offset = 0) {
    const auto reply =
        exchange(Request::set_log_base, bytes_of(wire::LogArea{.size = size, .offset = offset}), {&file_});
    return reply ? std::optional(reply->u64()) : std::nullopt;
  }
  std::optional<std::uint64_t> log_all(bool on) {
    return ask(Request::set_features, bytes_of(features_with_bit30() | (on ? kLogAll : 0)));
  }
  port::Path path() { return port().report().queues[0].path; }
  std::uint8_t log_byte_of(memory::Iova at) {
    const auto mapping = *Mapping::map(file_, 0, kEnough);
    return memory::GuestSpan::over({mapping->data(), mapping->size()})
        .fetch<std::uint8_t>(at.value() / memory::DirtyLog::kPage / 8);
  }

  OwnedFd file_ = *make_memfd("log", kEnough);
  Census with_log_ = before_ = Census::take();
};

TEST_F(Log, IsOffered) {
  const auto features = exchange(Request::get_features);
  ASSERT_TRUE(features);
  EXPECT_NE(features->u64() & kLogAll, 0U);
  EXPECT_TRUE(usual().has(ProtocolFeature::log_shmfd));
}

TEST_F(Log, IsInUseWhileThereIsOneAndLogAllIsSet) {
  EXPECT_EQ(path(), port::Path::direct);
  EXPECT_EQ(give_log(), 0U);
  EXPECT_EQ(path(), port::Path::direct);
  EXPECT_EQ(log_all(true), 0U);
  EXPECT_EQ(path(), port::Path::relay);
  EXPECT_TRUE(device().runs(0));
  // The ring itself was written.
  EXPECT_NE(log_byte_of(memory::Iova(GuestMemory::kGpa)), 0U);
  EXPECT_EQ(log_all(false), 0U);
  EXPECT_EQ(path(), port::Path::direct);
  EXPECT_TRUE(device().runs(0));
  EXPECT_EQ(device().regions.size(), 1U) << "the shadow ring is still mapped";
}

TEST_F(Log, MayComeBehindLogAll) {
  EXPECT_EQ(log_all(true), 0U);
  EXPECT_EQ(path(), port::Path::direct);
  EXPECT_EQ(give_log(), 0U);
  EXPECT_EQ(path(), port::Path::relay);
  // Another one takes its place.
  EXPECT_EQ(give_log(), 0U);
  EXPECT_EQ(path(), port::Path::relay);
}

TEST_F(Log, OfAQueueThatStartsLaterIsKeptToo) {
  EXPECT_EQ(give_log(), 0U);
  EXPECT_EQ(log_all(true), 0U);
  start_ring(1);
  EXPECT_EQ(port().report().queues[1].path, port::Path::relay);
}

TEST_F(Log, TooSmallForTheMemoryIsRefusedAndTheRingGoesOn) {
  EXPECT_EQ(log_all(true), 0U);
  EXPECT_EQ(give_log(1), 1U);
  EXPECT_EQ(path(), port::Path::direct);
  EXPECT_EQ(give_log(), 0U);
  EXPECT_EQ(path(), port::Path::relay);
  // The one that is in use stays.
  EXPECT_EQ(give_log(1), 1U);
  EXPECT_EQ(path(), port::Path::relay);
  EXPECT_TRUE(answers());
}

TEST_F(Log, NotInsideItsFileIsRefused) {
  EXPECT_EQ(give_log(kEnough, 4096), 1U);
  EXPECT_EQ(give_log(~0ULL - 4095), 1U);
  EXPECT_EQ(give_log(0), 1U);
  EXPECT_TRUE(answers());
}

TEST_F(Log, WithoutADescriptorIsRefused) {
  const auto reply = exchange(Request::set_log_base, bytes_of(wire::LogArea{.size = kEnough, .offset = 0}));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->u64(), 1U);
}

TEST_F(Log, TellsOfNewBitsWhereThatIsWanted) {
  const auto changed = *EventFd::make();
  EXPECT_EQ(give_log(), 0U);
  EXPECT_EQ(log_all(true), 0U);
  EXPECT_EQ(ask(Request::set_log_fd, {}, {&changed.fd()}), 0U);
  EXPECT_TRUE(changed.drain());
  EXPECT_EQ(ask(Request::set_log_fd), 0U);
}

TEST_F(Log, OfARingWithoutLogAllIsRefused) {
  auto addresses = ring_addresses(1);
  addresses.flags = wire::kVringAddrLog;
  EXPECT_EQ(ask(Request::set_vring_addr, bytes_of(addresses)), 1U);
  EXPECT_EQ(log_all(true), 0U);
  EXPECT_EQ(ask(Request::set_vring_addr, bytes_of(addresses)), 0U);
}

TEST_F(Log, EndsWithItsConnection) {
  EXPECT_EQ(give_log(), 0U);
  EXPECT_EQ(log_all(true), 0U);
  rig_->connection.reset();
  EXPECT_FALSE(port().is_logging());
}

}  // namespace
}  // namespace causeway::vhost_user::testing

#include "vhost_user/session_fixture.h"

#include <unistd.h>

namespace causeway::vhost_user::testing {
namespace {

class AConnection : public SessionTest {};

TEST_F(AConnection, TakesMessagesInPiecesOfOneByte) {
  const auto bytes = message(std::to_underlying(Request::get_features), kPlain, {});
  for (const std::byte byte : bytes) {
    rig_->peer->send_raw({byte});
    rig_->pump();
  }
  EXPECT_TRUE(rig_->peer->receive());
}

TEST_F(AConnection, TakesManyMessagesInOnePiece) {
  Bytes bytes;
  for (int i = 0; i < 200; ++i) {
    const auto one = message(std::to_underlying(Request::get_features), kPlain, {});
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  rig_->peer->send_raw(bytes);
  rig_->pump();
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(rig_->peer->receive()) << i;
}

TEST_F(AConnection, SurvivesAFrontEndThatVanishesAtAnyByteOfAMessage) {
  const auto bytes = message(std::to_underlying(Request::set_mem_table), kPlain,
                             bytes_of(wire::MemoryTableHead{.count = 1, .padding = 0}, GuestMemory::region()));
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
    start(1);
    if (cut != 0)
      rig_->peer->send_raw(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(cut)),
                           {&rig_->memory.file()});
    rig_->pump();
    rig_->peer.reset();
    rig_->pump();
    ASSERT_FALSE(is_connected()) << cut;
    ASSERT_TRUE(port().memory().regions().empty());
  }
}

TEST_F(AConnection, EndsAtABadHeader) {
  rig_->peer->send_raw(message(1, 0, {}));
  rig_->pump();
  EXPECT_FALSE(is_connected());
  EXPECT_FALSE(port().report().attached);
}

TEST_F(AConnection, RefusesDescriptorsInTheMiddleOfAMessage) {
  negotiate();
  const auto bytes = message(std::to_underlying(Request::set_vring_kick), kNeedReply, bytes_of(std::uint64_t{0}));
  rig_->peer->send_raw(Bytes(bytes.begin(), bytes.begin() + 12));
  rig_->peer->send_raw(Bytes(bytes.begin() + 12, bytes.end()), {&kick_.fd()});
  rig_->pump();
  const auto reply = rig_->peer->receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->u64(), 1u);
  EXPECT_TRUE(answers());
}

TEST_F(AConnection, RefusesAMessageWhoseDescriptorsWereLost) {
  if (!kMayRunOutOfDescriptors) GTEST_SKIP() << "the sanitizer needs descriptors of its own";
  negotiate();
  NoDescriptorsLeft shortage;
  const auto answer = ask(Request::set_vring_kick, bytes_of(std::uint64_t{0}), {&kick_.fd()});
  shortage.end();
  EXPECT_EQ(answer, 1u);
  EXPECT_TRUE(answers());
}

TEST_F(AConnection, ASecondOneToTheSamePortIsRefused) {
  auto [ours, theirs] = *UnixSocket::make_pair();
  const auto second = Connection::open(rig_->loop, port(), rig_->log, {}, std::move(ours), [] {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::busy);
  EXPECT_TRUE(answers());
}

/// The handler and its eventfd stay with the process, so they come before the census.
class ALostMapping : public SessionTest {
 protected:
  ALostMapping() {
    static const bool installed = survive_lost_mappings(std::make_shared<const EventFd>(*EventFd::make())).has_value();
    EXPECT_TRUE(installed);
    before_ = Census::take();
  }
};

TEST_F(ALostMapping, EndsTheConnection) {
  negotiate();
  give_memory();
  start_ring(0);
  ASSERT_EQ(::ftruncate(rig_->memory.file().borrow(), 0), 0);
  device().queues.at(QueueIndex{0}).ring.has_available();  // the access that faults
  port().check_memory();
  rig_->pump();
  EXPECT_FALSE(is_connected());
  EXPECT_TRUE(device().queues.empty());
}

}  // namespace
}  // namespace causeway::vhost_user::testing

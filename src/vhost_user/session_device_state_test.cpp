#include "port/device_state.h"
#include "vhost_user/session_fixture.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

namespace causeway::vhost_user::testing {
namespace {

constexpr std::uint64_t kDone = 0x100;     ///< without a descriptor
constexpr std::uint64_t kRefused = 0x101;  ///< likewise
constexpr std::uint32_t kSave = wire::kStateSave;
constexpr std::uint32_t kLoad = wire::kStateLoad;

struct Pipe {
  Pipe() {
    int raw[2] = {};
    EXPECT_EQ(::pipe2(raw, O_CLOEXEC | O_NONBLOCK), 0);
    reader = OwnedFd::adopt(raw[0]);
    writer = OwnedFd::adopt(raw[1]);
  }
  std::optional<OwnedFd> reader;
  std::optional<OwnedFd> writer;
};

/// Negotiated, no ring runs.
class DeviceStateTest : public SessionTest {
 protected:
  void SetUp() override {
    // What a broken channel does to a program that leaves the signal as it is.
    ASSERT_NE(std::signal(SIGPIPE, SIG_DFL), SIG_ERR);
    SessionTest::SetUp();
    negotiate();
    give_memory();
  }
  /// The answer to SET_DEVICE_STATE_FD.
  std::optional<std::uint64_t> set_fd(std::uint32_t direction, const OwnedFd& channel, std::uint32_t phase = 0) {
    const auto reply =
        exchange(Request::set_device_state_fd,
                 bytes_of(wire::DeviceStateTransfer{.direction = direction, .phase = phase}), {&channel});
    EXPECT_TRUE(!reply || reply->fds.empty());
    return reply && reply->payload.size() == 8 ? std::optional(reply->u64()) : std::nullopt;
  }
  std::optional<std::uint64_t> check() {
    const auto reply = exchange(Request::check_device_state);
    return reply && reply->payload.size() == 8 ? std::optional(reply->u64()) : std::nullopt;
  }
  /// All there is to read until the end.
  Bytes read_all(const OwnedFd& reader, bool* at_end = nullptr) {
    Bytes all;
    for (;;) {
      Bytes piece(100000);
      const ssize_t got = ::read(reader.borrow(), piece.data(), piece.size());
      if (got <= 0) {
        if (at_end != nullptr) *at_end = got == 0;
        return all;
      }
      all.insert(all.end(), piece.begin(), piece.begin() + got);
      rig_->pump();
    }
  }
  Bytes save() {
    Pipe pipe;
    EXPECT_EQ(set_fd(kSave, *pipe.writer), kDone);
    pipe.writer.reset();
    bool at_end = false;
    Bytes state = read_all(*pipe.reader, &at_end);
    EXPECT_TRUE(at_end) << "the channel is still open";
    EXPECT_EQ(check(), 0U);
    return state;
  }
  static void write(const OwnedFd& writer, const Bytes& bytes) {
    ASSERT_EQ(::write(writer.borrow(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  /// The answer to CHECK_DEVICE_STATE.
  std::optional<std::uint64_t> load(const Bytes& state) {
    Pipe pipe;
    EXPECT_EQ(set_fd(kLoad, *pipe.reader), kDone);
    pipe.reader.reset();
    write(*pipe.writer, state);
    pipe.writer.reset();
    return check();
  }
  port::DeviceState two_decisions() {
    return {.type = virtio::DeviceType::net,
            .features = port().features(),
            .control_queue = {},
            .commands = {{std::byte{1}, std::byte{11}}, {std::byte{2}, std::byte{22}}},
            .config = {{0, std::byte{5}}}};
  }
  bool has_two_decisions() {
    return device().decided ==
               std::map<std::byte, std::byte>{{std::byte{1}, std::byte{11}}, {std::byte{2}, std::byte{22}}} &&
           device().config[0] == std::byte{5};
  }
  static bool is_broken(const OwnedFd& writer) {
    // The other end is closed; the signal is this thread's alone.
    struct sigaction ignore{};
    struct sigaction old{};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGPIPE, &ignore, &old);
    const std::byte one{};
    const bool broken = ::write(writer.borrow(), &one, 1) < 0 && errno == EPIPE;
    ::sigaction(SIGPIPE, &old, nullptr);
    return broken;
  }
};

TEST_F(DeviceStateTest, IsOffered) {
  EXPECT_TRUE(usual().has(ProtocolFeature::device_state));
}

TEST_F(DeviceStateTest, IsLoadedAndSavedAgain) {
  const Bytes state = port::encode(two_decisions());
  EXPECT_EQ(load(state), 0U);
  EXPECT_TRUE(has_two_decisions());
  EXPECT_EQ(save(), state);
  EXPECT_EQ(save(), state) << "saving changes nothing";
}

TEST_F(DeviceStateTest, MayComeBeforeTheFeatures) {
  const Bytes state = port::encode(two_decisions());
  start(2);
  ASSERT_FALSE(exchange(Request::set_protocol_features, bytes_of(usual().bits())));
  EXPECT_EQ(load(state), 0U);
  exchange(Request::set_features, bytes_of(features_with_bit30()));
  give_memory();
  start_ring(0);
  EXPECT_TRUE(has_two_decisions());
}

TEST_F(DeviceStateTest, IsThatBeforeTheResetOfAStop) {
  const Bytes state = port::encode(two_decisions());
  EXPECT_EQ(load(state), 0U);
  EXPECT_EQ(ask(Request::set_status, bytes_of(std::uint64_t{0})), 0U);
  EXPECT_TRUE(device().decided.empty());
  EXPECT_EQ(save(), state);
  EXPECT_EQ(ask(Request::reset_device), 0U);
  EXPECT_NE(save(), state) << "a driver that resets its device begins anew";
}

TEST_F(DeviceStateTest, LargerThanAPipeGoesThrough) {
  // As large as many a table: longer than what a pipe holds, so that somebody has to wait.
  Pipe pipe;
  port::DeviceState state = two_decisions();
  ASSERT_EQ(set_fd(kLoad, *pipe.reader), kDone);
  pipe.reader.reset();
  for (int i = 0; i < 3000; ++i) state.commands.push_back(Bytes(100));
  const Bytes bytes = port::encode(state);
  ASSERT_GT(bytes.size(), 4U * 65536U);
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t put = ::write(pipe.writer->borrow(), bytes.data() + at, bytes.size() - at);
    ASSERT_GT(put, 0);
    at += static_cast<std::size_t>(put);
    rig_->pump();
  }
  pipe.writer.reset();
  // It has arrived: what it says is refused by the device, and nothing of it stays.
  EXPECT_EQ(check(), 1U);
  EXPECT_TRUE(device().decided.empty());
}

TEST_F(DeviceStateTest, GoesOverASocketToo) {
  const Bytes state = port::encode(two_decisions());
  auto pair = *UnixSocket::make_pair();
  std::optional<UnixSocket> ours(std::move(pair.first));
  ASSERT_EQ(set_fd(kLoad, pair.second.fd()), kDone);
  ASSERT_TRUE(ours->send(state, {}));
  ours.reset();
  EXPECT_EQ(check(), 0U);
  EXPECT_TRUE(has_two_decisions());
}

TEST_F(DeviceStateTest, IsRefusedWhileARingRuns) {
  start_ring(0);
  Pipe pipe;
  EXPECT_EQ(set_fd(kSave, *pipe.writer), kRefused);
  EXPECT_EQ(set_fd(kLoad, *pipe.reader), kRefused);
  EXPECT_EQ(check(), 1U);
  pipe.writer.reset();
  bool at_end = false;
  EXPECT_TRUE(read_all(*pipe.reader, &at_end).empty());
  EXPECT_TRUE(at_end) << "the channel leaked";
  EXPECT_TRUE(answers());
}

TEST_F(DeviceStateTest, ThatArrivesWhileARingRunsIsRefused) {
  Pipe pipe;
  ASSERT_EQ(set_fd(kLoad, *pipe.reader), kDone);
  start_ring(0);
  write(*pipe.writer, port::encode(two_decisions()));
  pipe.writer.reset();
  EXPECT_EQ(check(), 1U);
  EXPECT_TRUE(device().runs(0));
  EXPECT_TRUE(device().decided.empty());
}

TEST_F(DeviceStateTest, ThatIsDamagedOrForeignIsRefusedAndNothingChanges) {
  const Bytes good = port::encode(two_decisions());
  ASSERT_EQ(load(good), 0U);
  port::DeviceState foreign = two_decisions();
  foreign.type = virtio::DeviceType::block;
  port::DeviceState refused = two_decisions();
  refused.commands = {{std::byte{3}, std::byte{33}}, {std::byte{200}, std::byte{0}}};
  Bytes cut(good.begin(), good.end() - 1);
  Bytes newer = good;
  newer[4] = std::byte{9};
  for (const Bytes& wrong : {Bytes(), cut, newer, port::encode(foreign), port::encode(refused), Bytes(60000)}) {
    EXPECT_EQ(load(wrong), 1U) << wrong.size();
    EXPECT_TRUE(has_two_decisions());
  }
  EXPECT_EQ(save(), good);
}

TEST_F(DeviceStateTest, OfAFrontEndThatDoesNotCloseIsRefused) {
  Pipe pipe;
  ASSERT_EQ(set_fd(kLoad, *pipe.reader), kDone);
  pipe.reader.reset();
  write(*pipe.writer, port::encode(two_decisions()));
  rig_->pump();
  EXPECT_TRUE(device().decided.empty()) << "before its end";
  EXPECT_EQ(check(), 1U);
  EXPECT_TRUE(is_broken(*pipe.writer)) << "the transfer is over";
  EXPECT_TRUE(device().decided.empty());
  EXPECT_EQ(load(port::encode(two_decisions())), 0U) << "the next one is another";
}

TEST_F(DeviceStateTest, WithoutEndIsCutOff) {
  Pipe pipe;
  ASSERT_EQ(set_fd(kLoad, *pipe.reader), kDone);
  pipe.reader.reset();
  std::size_t sent = 0;
  const Bytes piece(65536, std::byte{0x5a});
  std::signal(SIGPIPE, SIG_IGN);
  for (int i = 0; i < 1000; ++i) {
    const ssize_t put = ::write(pipe.writer->borrow(), piece.data(), piece.size());
    if (put < 0 && errno == EPIPE) break;
    sent += static_cast<std::size_t>(std::max<ssize_t>(put, 0));
    rig_->pump();
  }
  std::signal(SIGPIPE, SIG_DFL);
  EXPECT_LT(sent, 2 * port::Port::kMaxDeviceState);
  EXPECT_TRUE(is_broken(*pipe.writer));
  EXPECT_EQ(check(), 1U);
}

TEST_F(DeviceStateTest, ThatNobodyReadsIsRefused) {
  for (const bool closes : {true, false}) {
    Pipe pipe;
    // No room: the other end has to read first.
    const Bytes full(65536);
    while (::write(pipe.writer->borrow(), full.data(), full.size()) > 0) continue;
    ASSERT_EQ(set_fd(kSave, *pipe.writer), kDone);
    pipe.writer.reset();
    if (closes) pipe.reader.reset();
    rig_->pump();
    EXPECT_EQ(check(), 1U);
    EXPECT_TRUE(answers());
  }
}

TEST_F(DeviceStateTest, GoesOnOnceThereIsRoom) {
  Pipe pipe;
  const Bytes full(65536);
  while (::write(pipe.writer->borrow(), full.data(), full.size()) > 0) continue;
  ASSERT_EQ(set_fd(kSave, *pipe.writer), kDone);
  pipe.writer.reset();
  bool at_end = false;
  const Bytes all = read_all(*pipe.reader, &at_end);
  EXPECT_TRUE(at_end);
  EXPECT_TRUE(port::decode_device_state(std::span(all).subspan(65536)));
  EXPECT_EQ(check(), 0U);
}

TEST_F(DeviceStateTest, IsTransferredOnceAtATime) {
  Pipe first;
  Pipe second;
  ASSERT_EQ(set_fd(kLoad, *first.reader), kDone);
  first.reader.reset();
  EXPECT_TRUE(port().is_migrating());
  EXPECT_EQ(set_fd(kSave, *second.writer), kRefused);
  // The first goes on as if nothing had been.
  write(*first.writer, port::encode(two_decisions()));
  first.writer.reset();
  EXPECT_EQ(check(), 0U);
  EXPECT_TRUE(has_two_decisions());
  EXPECT_FALSE(port().is_migrating());
  EXPECT_EQ(check(), 1U) << "there is no other to ask about";
}

TEST_F(DeviceStateTest, MayBeginAnewBehindATransferThatHasEndedUnasked) {
  Pipe first;
  ASSERT_EQ(set_fd(kLoad, *first.reader), kDone);
  first.reader.reset();
  first.writer.reset();
  EXPECT_EQ(load(port::encode(two_decisions())), 0U);
}

TEST_F(DeviceStateTest, EndsWithItsConnection) {
  for (const std::uint32_t direction : {kSave, kLoad}) {
    start(2);
    negotiate();
    Pipe pipe;
    const Bytes full(65536);
    if (direction == kSave) {
      while (::write(pipe.writer->borrow(), full.data(), full.size()) > 0) continue;
    }
    ASSERT_EQ(set_fd(direction, direction == kSave ? *pipe.writer : *pipe.reader), kDone);
    rig_->connection.reset();
    if (direction == kSave) {
      pipe.writer.reset();
      bool at_end = false;
      read_all(*pipe.reader, &at_end);
      EXPECT_TRUE(at_end) << "the channel leaked";
    } else {
      pipe.reader.reset();
      EXPECT_TRUE(is_broken(*pipe.writer)) << "the channel leaked";
    }
  }
}

TEST_F(DeviceStateTest, NeedsAChannelThatCanBeOne) {
  Pipe pipe;
  EXPECT_EQ(set_fd(kSave, *pipe.reader), kRefused);
  EXPECT_EQ(set_fd(kLoad, *pipe.writer), kRefused);
  EXPECT_EQ(set_fd(kLoad, kick_.fd()), kRefused);
  EXPECT_EQ(set_fd(kSave, rig_->memory.file()), kRefused);
  EXPECT_EQ(set_fd(2, *pipe.writer), kRefused) << "a direction that does not exist";
  EXPECT_EQ(set_fd(kSave, *pipe.writer, 1), kRefused) << "a phase that does not exist";
  const auto none =
      exchange(Request::set_device_state_fd, bytes_of(wire::DeviceStateTransfer{.direction = kSave, .phase = 0}));
  ASSERT_TRUE(none);
  EXPECT_EQ(none->u64(), kRefused);
  EXPECT_TRUE(answers());
}

TEST_F(DeviceStateTest, NeedsItsProtocolFeature) {
  start(2);
  negotiate(usual().minus({ProtocolFeature::device_state}));
  Pipe pipe;
  const auto transfer = bytes_of(wire::DeviceStateTransfer{.direction = kSave, .phase = 0});
  EXPECT_EQ(ask(Request::set_device_state_fd, transfer, {&*pipe.writer}), 1U);
  EXPECT_EQ(ask(Request::check_device_state), 1U);
  EXPECT_TRUE(answers());
}

}  // namespace
}  // namespace causeway::vhost_user::testing

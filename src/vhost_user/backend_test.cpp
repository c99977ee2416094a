#include "vhost_user/backend.h"

#include "vhost_user/session_fixture.h"

#include <fmt/format.h>

#include <unistd.h>

#include <thread>

namespace causeway::vhost_user::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

class ABackend : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::make_unique<Loop>();
    auto fake = std::make_unique<FakeDevice>(std::uint16_t{1});
    device_ = fake.get();
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(std::move(fake));
    port_ = *port::Port::make(*loop_, {.name = "net0", .features_off = {}}, std::move(devices));
  }
  void TearDown() override {
    backend_.reset();
    port_.reset();
    loop_.reset();
    EXPECT_FALSE(std::filesystem::exists(path_));
    EXPECT_EQ(before_, Census::take()) << "descriptors or mappings leaked";
  }

  Result<void> start(Role role) {
    CW_TRY(backend_, Backend::start(*loop_, *port_, {.path = path_, .role = role, .options = {}}));
    return {};
  }
  /// Runs the loop until `condition` holds, five seconds at most.
  template <class Condition>
  bool run_until(Condition condition) {
    const auto deadline = steady_clock::now() + std::chrono::seconds(5);
    while (!condition()) {
      if (steady_clock::now() > deadline) return false;
      if (!loop_->run_ready()) std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
  }
  bool is_connected() const { return backend_->report().connected; }
  std::optional<Reply> get_features(Peer& peer) {
    peer.send_raw(message(std::to_underlying(Request::get_features), wire::kVersion, {}));
    std::optional<Reply> reply;
    run_until([&] { return (reply = peer.receive()).has_value(); });
    return reply;
  }

  Census before_ = Census::take();
  std::filesystem::path path_ = fmt::format("/tmp/causeway-backend-test-{}.sock", ::getpid());
  std::unique_ptr<Loop> loop_;
  FakeDevice* device_ = nullptr;
  std::unique_ptr<port::Port> port_;
  std::unique_ptr<Backend> backend_;
};

TEST_F(ABackend, ServesOneFrontEndAfterTheOther) {
  ASSERT_TRUE(start(Role::listen));
  for (int i = 0; i < 5; ++i) {
    Peer peer(*UnixSocket::connect(path_));
    EXPECT_TRUE(get_features(peer));
    EXPECT_TRUE(is_connected());
    {
      const Peer gone = std::move(peer);
    }
    ASSERT_TRUE(run_until([&] { return !is_connected(); }));
  }
}

TEST_F(ABackend, TurnsASecondFrontEndAwayAndServesTheFirstOn) {
  ASSERT_TRUE(start(Role::listen));
  Peer first(*UnixSocket::connect(path_));
  EXPECT_TRUE(get_features(first));
  Peer second(*UnixSocket::connect(path_));
  loop_->run_ready();
  EXPECT_TRUE(run_until([&] { return second.is_closed(); }));
  EXPECT_TRUE(get_features(first));
}

TEST_F(ABackend, TakesTheNextFrontEndAfterOneThatBrokeTheRules) {
  ASSERT_TRUE(start(Role::listen));
  Peer bad(*UnixSocket::connect(path_));
  bad.send_raw(Bytes(64, std::byte{0xff}));
  EXPECT_TRUE(run_until([&] { return bad.is_closed(); }));
  Peer good(*UnixSocket::connect(path_));
  EXPECT_TRUE(get_features(good));
}

TEST_F(ABackend, RefusesAPathThatIsInUse) {
  const auto other = *UnixListener::bind(path_);
  EXPECT_FALSE(start(Role::listen));
}

TEST_F(ABackend, ReplacesASocketFileThatNobodyListensOn) {
  {
    auto listener = *UnixListener::bind(path_);
    std::filesystem::rename(path_, path_.native() + ".old");
  }
  std::filesystem::rename(path_.native() + ".old", path_);
  ASSERT_TRUE(start(Role::listen));
  Peer peer(*UnixSocket::connect(path_));
  EXPECT_TRUE(get_features(peer));
}

TEST_F(ABackend, SurvivesRunningOutOfDescriptors) {
  if (!kMayRunOutOfDescriptors) GTEST_SKIP() << "the sanitizer needs descriptors of its own";
  ASSERT_TRUE(start(Role::listen));
  Peer peer(*UnixSocket::connect(path_));
  NoDescriptorsLeft shortage;
  EXPECT_FALSE(run_until([&, turns = 0]() mutable { return ++turns > 100 || is_connected(); }) && is_connected());
  shortage.end();
  EXPECT_TRUE(get_features(peer));
}

TEST_F(ABackend, ConnectsToAFrontEndThatComesLaterAndReconnects) {
  ASSERT_TRUE(start(Role::connect));
  loop_->run_ready();
  EXPECT_FALSE(is_connected());
  const auto listener = *UnixListener::bind(path_);
  for (int i = 0; i < 3; ++i) {
    Result<UnixSocket> socket = fail(Errc::busy, "nobody yet");
    ASSERT_TRUE(run_until([&] {
      socket = listener.accept();
      return socket.has_value();
    }));
    Peer peer(std::move(*socket));
    EXPECT_TRUE(get_features(peer));
  }
}

TEST_F(ABackend, ItsEndFreesThePort) {
  ASSERT_TRUE(start(Role::listen));
  Peer peer(*UnixSocket::connect(path_));
  EXPECT_TRUE(get_features(peer));
  EXPECT_TRUE(port_->report().attached);
  backend_.reset();
  EXPECT_FALSE(port_->report().attached);
  EXPECT_TRUE(peer.is_closed());
}

}  // namespace
}  // namespace causeway::vhost_user::testing

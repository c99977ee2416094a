// A Device that is another process's port: guest, Port, Frontend, socket, Backend, Port, NIC. Two guests talk across
// it, and queues move between it and a NIC of this side.

#include "net/two_guests.h"
#include "vhost_user/backend.h"
#include "vhost_user/frontend.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>

namespace causeway::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using virtio::QueueIndex;

constexpr std::uint64_t kFrames = 2'000;
constexpr std::uint64_t kWindow = 64;  // frames on their way; below the receive ring, so that none may be dropped

std::filesystem::path chain_socket() {
  return fmt::format("/tmp/causeway-chain-test-{}.sock", ::getpid());
}

std::vector<std::byte> numbered_frame(net::MacAddress to, net::MacAddress from, std::uint64_t sequence) {
  std::vector<std::byte> frame(60 + sequence % 1400, static_cast<std::byte>(sequence));
  const net::EthernetHeader ethernet{.destination = to, .source = from, .ether_type = {0x88, 0xb5}};
  std::memcpy(frame.data(), &ethernet, sizeof ethernet);
  std::memcpy(frame.data() + sizeof ethernet, &sequence, sizeof sequence);
  return frame;
}

std::uint64_t sequence_of(const std::vector<std::byte>& frame) {
  std::uint64_t sequence = ~0ULL;
  if (frame.size() >= sizeof(net::EthernetHeader) + sizeof sequence) {
    std::memcpy(&sequence, frame.data() + sizeof(net::EthernetHeader), sizeof sequence);
  }
  return sequence;
}

/// The other process: a Port with a NIC on `link`, served over vhost-user by a thread of its own.
class FarProcess {
 public:
  explicit FarProcess(const std::shared_ptr<net::Link>& link) : port_(make_nic_port(loop_, link, kMacA, 1)) {
    start();
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~FarProcess() {
    loop_.call([this] {
      backend_.reset();
      port_.reset();
      return true;
    });
    loop_.stop();
    thread_.join();
  }
  FarProcess(const FarProcess&) = delete;
  FarProcess& operator=(const FarProcess&) = delete;
  void restart_server() {
    loop_.call([this] {
      backend_.reset();
      start();
      return true;
    });
  }

 private:
  void start() {
    backend_ = value_or_die(vhost_user::Backend::start(loop_, *port_, {.path = chain_socket(), .options = {}}));
  }
  Loop loop_;
  std::unique_ptr<port::Port> port_;
  std::unique_ptr<vhost_user::Backend> backend_;
  std::thread thread_;
};

/// Guest a's port has the far process as its first Device and a NIC of this side, on the same link, as its last.
class Chain : public ::testing::Test {
 protected:
  void build(bool reconnect) {
    link_a_ = bridge_.add_port("a");
    far_ = std::make_unique<FarProcess>(link_a_);
    vhost_user::FrontendConfig config;
    config.name = "chain";
    config.path = chain_socket();
    config.reconnect = reconnect;
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(value_or_die(vhost_user::Frontend::make(loop_, config)));
    devices.push_back(value_or_die(
        net::Nic::make(loop_, {.name = "soft", .mac = kMacA, .queue_pairs = 1, .mtu = std::nullopt}, link_a_)));
    port_a_ = value_or_die(port::Port::make(loop_, {.name = "near", .features_off = {}}, std::move(devices)));
    port_b_ = make_nic_port(loop_, bridge_.add_port("b"), kMacB, 1);
    a_ = value_or_die(FakeGuest::plug_in(*port_a_, {}));
    b_ = value_or_die(FakeGuest::plug_in(*port_b_, {}));
  }

  std::string device_of(std::size_t queue) const { return port_a_->report().queues[queue].device; }

  /// Sends frames from one guest to the other until `count` have come; what went wrong, or "". Frames may be lost when
  /// `lossy`, never repeated or reordered. `now_and_then` runs every 100 arrivals.
  std::string stream(
      FakeGuest& from, FakeGuest& to, bool a_to_b, std::uint64_t count, bool lossy,
      const std::function<void()>& now_and_then = [] {}) {
    const auto& [receiver, sender] = a_to_b ? std::pair(kMacB, kMacA) : std::pair(kMacA, kMacB);
    const std::uint64_t first = next_;
    std::uint64_t& due = due_[a_to_b ? 0 : 1];
    std::uint64_t given_up = first;  // those below are waited for no more; they may come all the same
    std::uint64_t got = 0;
    auto last = steady_clock::now();  // arrival, or loss
    auto last_arrival = last;
    while (got < count) {
      loop_.run_ready();
      from.reap(0);
      while (next_ - std::max(due, given_up) < kWindow && from.send(0, {}, numbered_frame(receiver, sender, next_))) {
        ++next_;
      }
      from.flush(0);
      while (const auto arrival = to.receive(0)) {
        const std::uint64_t sequence = sequence_of(arrival->frame);
        const bool is_late = sequence < first;  // the stream before has ended without it
        const std::uint64_t wanted = is_late ? due : std::max(due, first);
        if (sequence < wanted || sequence >= next_ || (sequence != wanted && !is_late && !lossy)) {
          return fmt::format("frame {} came where {} was due", sequence, wanted);
        }
        due = sequence + 1;
        if (is_late) continue;
        last = last_arrival = steady_clock::now();
        if (++got % 100 == 0) now_and_then();
      }
      if (lossy && std::max(due, given_up) < next_ && steady_clock::now() - last > milliseconds(300)) {
        given_up = next_;
        last = steady_clock::now();
      }
      if (steady_clock::now() - last_arrival > std::chrono::seconds(20)) {
        return fmt::format("no frame after {} of {} sent", got, next_ - first);
      }
      std::this_thread::yield();
    }
    RecordProperty("not_come", std::to_string(next_ - first - got));
    return "";
  }

  Loop loop_;
  std::unique_ptr<Worker> worker_ =
      value_or_die(Worker::start({.name = "test", .polling = Polling::adaptive, .cpu = std::nullopt}));
  net::Switch bridge_{*worker_, "sw0"};
  std::shared_ptr<net::Link> link_a_;
  std::unique_ptr<FarProcess> far_;
  std::unique_ptr<port::Port> port_a_;
  std::unique_ptr<port::Port> port_b_;
  std::unique_ptr<FakeGuest> a_;
  std::unique_ptr<FakeGuest> b_;
  std::uint64_t next_ = 0;
  std::array<std::uint64_t, 2> due_{};  // the least that may come, from A to B and back
};

TEST_F(Chain, CarriesFramesBothWays) {
  build(false);
  EXPECT_EQ(device_of(0), "chain");
  EXPECT_EQ(device_of(1), "chain");
  EXPECT_EQ(stream(*a_, *b_, true, kFrames, false), "");
  EXPECT_EQ(stream(*b_, *a_, false, kFrames, false), "");
}

TEST_F(Chain, MovesItsQueuesUnderTrafficToANicAndBack) {
  build(false);
  std::uint64_t moves = 0;
  const auto move = [&] {
    const QueueIndex queue{static_cast<std::uint16_t>(moves / 2 % 2)};
    const auto moved = port_a_->rebind(queue, moves % 2 == 0 ? "soft" : "chain");
    ASSERT_TRUE(moved) << moved.error().text();
    ++moves;
  };
  // GET_VRING_BASE ends a queue for its back-end: what arrives for it until it runs elsewhere is lost.
  EXPECT_EQ(stream(*a_, *b_, true, kFrames, true, move), "");
  EXPECT_EQ(stream(*b_, *a_, false, kFrames, true, move), "");
  EXPECT_GE(moves, 39u);
  EXPECT_FALSE(a_->is_broken() || b_->is_broken());
}

TEST_F(Chain, GoesOnWithTheNicWhenTheOtherProcessDies) {
  build(false);
  EXPECT_EQ(stream(*a_, *b_, true, 500, false), "");
  far_.reset();
  EXPECT_EQ(stream(*a_, *b_, true, 500, true), "");
  EXPECT_EQ(stream(*b_, *a_, false, 500, true), "");
  EXPECT_EQ(device_of(0), "soft");
  EXPECT_EQ(device_of(1), "soft");
}

TEST_F(Chain, GoesOnWithTheOtherProcessWhenItComesBack) {
  build(true);
  EXPECT_EQ(stream(*a_, *b_, true, 500, false), "");
  for (int i = 0; i < 3; ++i) {
    far_->restart_server();
    EXPECT_EQ(stream(*a_, *b_, true, 500, true), "");
    EXPECT_EQ(stream(*b_, *a_, false, 500, true), "");
  }
  EXPECT_EQ(device_of(0), "chain");
  EXPECT_EQ(device_of(1), "chain");
}

}  // namespace
}  // namespace causeway::testing

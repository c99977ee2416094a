// A front-end under the test's control, connected to a real Port with a FakeDevice. One thread runs both sides.
#pragma once

#include "vhost_user/connection.h"
#include "vhost_user/test_support.h"

#include <gtest/gtest.h>

#include <sys/resource.h>

#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "support/driver_side.h"

namespace causeway::vhost_user::testing {

using std::chrono::milliseconds;

struct Reply {
  std::uint32_t request;
  std::uint32_t flags;
  Bytes payload;
  std::vector<OwnedFd> fds;
  std::uint64_t u64() const { return value_of<std::uint64_t>(payload); }
};

/// The test's end of the socket.
class Peer {
 public:
  explicit Peer(UnixSocket socket) : socket_(std::move(socket)) {}

  void send_raw(const Bytes& bytes, std::vector<const OwnedFd*> fds = {}) {
    ASSERT_TRUE(socket_.send(bytes, fds).has_value());
  }
  /// The next whole message, when one has come.
  std::optional<Reply> receive() {
    Bytes head(kHeaderSize);
    auto got = socket_.receive(head);
    if (!got || got->bytes != head.size()) return std::nullopt;
    const auto header = value_of<wire::Header>(head);
    Reply reply{
        .request = header.request, .flags = header.flags, .payload = Bytes(header.size), .fds = std::move(got->fds)};
    if (header.size != 0 && socket_.receive(reply.payload).value().bytes != header.size) return std::nullopt;
    return reply;
  }
  bool is_closed() {
    Bytes one(1);
    const auto got = socket_.receive(one);
    return !got || got->closed;
  }

 private:
  UnixSocket socket_;
};

// The undefined-behaviour sanitizer opens a pipe to look at a type it has not seen before, and takes the type for
// broken when it cannot: no test may run it out of descriptors.
#if defined(__has_feature)
inline constexpr bool kMayRunOutOfDescriptors = !__has_feature(undefined_behavior_sanitizer);
#else
inline constexpr bool kMayRunOutOfDescriptors = true;
#endif

/// Takes every descriptor that the process may still open, until `end`.
class NoDescriptorsLeft {
 public:
  NoDescriptorsLeft() {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &old_), 0);
    struct rlimit tight = old_;
    tight.rlim_cur = static_cast<rlim_t>(*Census::take().fds.rbegin()) + 2;
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
    for (auto event = EventFd::make(); event; event = EventFd::make()) taken_.push_back(std::move(*event));
  }
  ~NoDescriptorsLeft() { end(); }
  NoDescriptorsLeft(const NoDescriptorsLeft&) = delete;
  NoDescriptorsLeft& operator=(const NoDescriptorsLeft&) = delete;
  void end() {
    taken_.clear();
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &old_), 0);
  }

 private:
  struct rlimit old_{};
  std::vector<EventFd> taken_;
};

/// Port, loop and connection. Destroyed before the census is taken again.
struct Rig {
  explicit Rig(std::uint16_t a_pairs, SessionOptions some) : pairs(a_pairs), options(some) {
    port = make_port();
    auto [ours, theirs] = *UnixSocket::make_pair();
    peer.emplace(std::move(theirs));
    connection = *Connection::open(loop, *port, log, options, std::move(ours), [this] { connection.reset(); });
  }

  std::unique_ptr<port::Port> make_port() {
    auto fake = std::make_unique<FakeDevice>(pairs);
    device = fake.get();
    if (prepare) prepare(*device);
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(std::move(fake));
    return *port::Port::make(loop, {.name = "net0", .features_off = {}, .relay_worker = relays.get()},
                             std::move(devices));
  }

  /// Another process takes over: what goes to it, as it arrives there.
  Parcel estate(port::RecordFormat format = port::RecordFormat::current) const {
    ParcelWriter parcel;
    connection->hand_over(parcel);
    port->hand_over(parcel, format);
    return causeway::testing::arrived(parcel);
  }
  /// Goes on with a new port, device and connection.
  Result<void> hand_over(port::RecordFormat format) {
    connection->freeze();
    ParcelReader reader(estate(format));
    auto next_port = make_port();
    CW_TRY(auto next, Connection::take_over(loop, *next_port, log, options, reader, [this] { connection.reset(); }));
    CW_CHECK(next_port->take_over(reader));
    CW_CHECK(reader.finish());
    ParcelWriter paused;
    port->pause(paused);
    ParcelReader positions(causeway::testing::arrived(paused));
    CW_CHECK(next_port->start_at(positions));
    connection = std::move(next);
    port = std::move(next_port);
    connection->thaw();
    return positions.finish();
  }

  void pump() {
    for (int i = 0; i < 1000 && loop.run_ready(); ++i) continue;
  }

  std::uint16_t pairs;
  SessionOptions options;
  Loop loop;
  PortLog log{"net0"};
  std::unique_ptr<Worker> relays = *Worker::start({.name = "relays", .polling = Polling::sleep, .cpu = {}});
  std::function<void(FakeDevice&)> prepare;  ///< for a device that comes with a new port
  FakeDevice* device = nullptr;
  std::unique_ptr<port::Port> port;
  GuestMemory memory;
  std::optional<Peer> peer;
  std::unique_ptr<Connection> connection;
};

/// Checks at the end of each test that nothing leaked.
class SessionTest : public ::testing::Test {
 protected:
  void SetUp() override { start(2); }
  void TearDown() override {
    rig_.reset();
    EXPECT_EQ(before_, Census::take()) << "descriptors or mappings leaked";
  }

  void start(std::uint16_t pairs, SessionOptions options = {}) {
    rig_.reset();
    rig_ = std::make_unique<Rig>(pairs, options);
  }

  FakeDevice& device() { return *rig_->device; }
  port::Port& port() { return *rig_->port; }
  bool is_connected() const { return rig_->connection != nullptr; }

  static constexpr std::uint32_t kPlain = wire::kVersion;
  static constexpr std::uint32_t kNeedReply = wire::kVersion | wire::kNeedReplyFlag;

  std::optional<Reply> exchange(Request request, const Bytes& payload = {}, std::vector<const OwnedFd*> fds = {},
                                std::uint32_t flags = kPlain) {
    rig_->peer->send_raw(message(std::to_underlying(request), flags, payload), std::move(fds));
    rig_->pump();
    return rig_->peer->receive();
  }
  /// Sends with need_reply; the acknowledgement, or nothing when none came.
  std::optional<std::uint64_t> ask(Request request, const Bytes& payload = {}, std::vector<const OwnedFd*> fds = {}) {
    const auto reply = exchange(request, payload, std::move(fds), kNeedReply);
    if (!reply || reply->request != std::to_underlying(request) || reply->payload.size() != 8) return std::nullopt;
    EXPECT_EQ(reply->flags, wire::kVersion | wire::kReplyFlag);
    return reply->u64();
  }
  /// The connection lives, and answers.
  bool answers() { return exchange(Request::get_features).has_value(); }

  /// What QEMU of today accepts of our offer.
  static ProtocolFeatures usual() { return offered_protocol_features().minus({ProtocolFeature::gpa_addresses}); }

  void negotiate(ProtocolFeatures features = usual()) {
    ASSERT_TRUE(exchange(Request::get_features).has_value());
    ASSERT_TRUE(exchange(Request::get_protocol_features).has_value());
    ASSERT_FALSE(exchange(Request::set_protocol_features, bytes_of(features.bits())).has_value());
    exchange(Request::set_owner);
    exchange(Request::set_features, bytes_of(features_with_bit30()));
    ASSERT_TRUE(is_connected());
  }
  static std::uint64_t features_with_bit30() {
    return virtio::FeatureSet{virtio::Feature::version_1}.with(kProtocolFeaturesBit).bits();
  }

  void give_memory() {
    const wire::MemoryTableHead head{.count = 1, .padding = 0};
    exchange(Request::set_mem_table, bytes_of(head, GuestMemory::region()), {&rig_->memory.file()});
    ASSERT_EQ(port().memory().regions().size(), 1u);
  }
  void set_up_ring(std::uint32_t queue, std::uint64_t base = GuestMemory::kFrontendVa) {
    exchange(Request::set_vring_num, bytes_of(wire::VringState{.index = queue, .number = 128}));
    exchange(Request::set_vring_base, bytes_of(wire::VringState{.index = queue, .number = 0}));
    exchange(Request::set_vring_addr, bytes_of(ring_addresses(queue, base)));
  }
  void kick_off(std::uint32_t queue) {
    exchange(Request::set_vring_kick, bytes_of(std::uint64_t{queue}), {&kick_.fd()});
  }
  /// Everything up to a running queue.
  void start_ring(std::uint32_t queue) {
    set_up_ring(queue);
    kick_off(queue);
    ASSERT_TRUE(device().runs(static_cast<std::uint16_t>(queue)));
  }

  EventFd kick_ = *EventFd::make();
  EventFd call_ = *EventFd::make();
  Census before_ = Census::take();
  std::unique_ptr<Rig> rig_;
};

/// With a back-end channel, whose other end is the test's.
class ChannelTest : public SessionTest {
 protected:
  void TearDown() override {
    channel_.reset();
    SessionTest::TearDown();
  }
  void begin(ProtocolFeatures features = usual()) {
    negotiate(features);
    give_memory();
    auto [ours, theirs] = *UnixSocket::make_pair();
    channel_ = std::make_unique<Peer>(std::move(ours));
    exchange(Request::set_backend_req_fd, {}, {&theirs.fd()});
  }
  void answer(std::uint64_t value, BackendRequest request) {
    channel_->send_raw(message(std::to_underlying(request), wire::kVersion | wire::kReplyFlag, bytes_of(value)));
    rig_->pump();
  }
  void stop_ring() { exchange(Request::get_vring_base, bytes_of(wire::VringState{.index = 0, .number = 0})); }
  /// What comes within `limit`.
  std::optional<Reply> told(milliseconds limit = milliseconds(0)) {
    const auto end = std::chrono::steady_clock::now() + limit;
    for (;;) {
      rig_->pump();
      if (auto message = channel_->receive()) return message;
      if (std::chrono::steady_clock::now() >= end) return std::nullopt;
      std::this_thread::sleep_for(milliseconds(1));
    }
  }

  std::unique_ptr<Peer> channel_;
};

}  // namespace causeway::vhost_user::testing

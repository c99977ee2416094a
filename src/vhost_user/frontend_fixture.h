// A Frontend on the test's thread, and what it is connected to on a thread of its own, since its requests wait: our
// own Backend with a FakeDevice, or a back-end whose every answer the test decides.
#pragma once

#include "vhost_user/backend.h"
#include "vhost_user/frontend.h"
#include "vhost_user/test_support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace causeway::vhost_user::testing {

using std::chrono::milliseconds;

inline std::filesystem::path test_socket() {
  return fmt::format("/tmp/causeway-frontend-test-{}.sock", ::getpid());
}

/// Backend, Port and FakeDevice on a loop that runs in a thread.
class FarSide {
 public:
  explicit FarSide(std::uint16_t pairs = 1, BackendConfig config = {.path = test_socket(), .options = {}})
      : config_(std::move(config)) {
    auto fake = std::make_unique<FakeDevice>(pairs);
    device_ = fake.get();
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(std::move(fake));
    port_ = *port::Port::make(loop_, {.name = "far", .features_off = {}}, std::move(devices));
    backend_ = *Backend::start(loop_, *port_, config_);
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~FarSide() {
    loop_.call([this] {
      backend_.reset();
      port_.reset();
      return true;
    });
    loop_.stop();
    thread_.join();
  }
  FarSide(const FarSide&) = delete;
  FarSide& operator=(const FarSide&) = delete;

  /// Runs `look` on the far side's thread, and returns what it returns.
  template <class Look>
  auto ask(Look look) {
    return loop_.call([&] { return look(*device_); });
  }
  template <class Look>
  auto ask_port(Look look) {
    return loop_.call([&] { return look(*port_); });
  }
  void leave() {
    loop_.call([this] {
      backend_.reset();
      return true;
    });
  }
  void come_back() {
    loop_.call([this] {
      backend_ = *Backend::start(loop_, *port_, config_);
      return true;
    });
  }

 private:
  BackendConfig config_;
  Loop loop_;
  FakeDevice* device_ = nullptr;
  std::unique_ptr<port::Port> port_;
  std::unique_ptr<Backend> backend_;
  std::thread thread_;
};

/// Remembers what a Device tells.
struct Observer final : vdpa::DeviceObserver {
  void config_changed() override { ++config_changes; }
  void queue_failed(QueueIndex queue, Error reason) override {
    failed.emplace_back(virtio::number(queue), reason.text());
  }
  void device_gone(Error reason) override { gone = reason.text(); }
  int config_changes = 0;
  std::vector<std::pair<unsigned, std::string>> failed;
  std::optional<std::string> gone;
};

/// Checks at the end of each test that nothing leaked.
class FrontendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    before_ = Census::take();
    loop_ = std::make_unique<Loop>();
    memory_ = std::make_unique<GuestMemory>();
  }
  void TearDown() override {
    frontend_.reset();
    kick_.reset();
    call_.reset();
    tear_down_far_side();
    memory_.reset();
    loop_.reset();
    EXPECT_FALSE(std::filesystem::exists(test_socket()));
    EXPECT_EQ(before_, Census::take()) << "descriptors or mappings leaked";
  }
  virtual void tear_down_far_side() {}

  static FrontendConfig usual() {
    FrontendConfig config;
    config.name = "peer";
    config.path = test_socket();
    config.patience = milliseconds(2000);
    config.wait = milliseconds(2000);
    return config;
  }
  Result<void> make(const FrontendConfig& config) {
    CW_TRY(frontend_, Frontend::make(*loop_, config));
    frontend_->set_observer(&observer_);
    return {};
  }
  /// Runs the loop until `condition` holds, five seconds at most.
  template <class Condition>
  bool run_until(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      if (!loop_->run_ready()) std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
  }

  memory::Region region(std::uint64_t index = 0, std::uint64_t count = 1) const {
    const wire::Region wire = GuestMemory::region(index, count);
    return *memory::Region::map(memory::Iova(wire.guest_address), memory::FrontendVa(wire.user_address), wire.size,
                                *memory_->file().duplicate(), wire.mmap_offset);
  }
  static virtio::RingConfig ring(std::uint32_t queue, std::uint16_t start = 0) {
    return {.size = *virtio::QueueSize::split(128),
            .descriptors = memory::Iova(GuestMemory::kGpa + GuestMemory::descriptors(queue)),
            .available = memory::Iova(GuestMemory::kGpa + GuestMemory::available(queue)),
            .used = memory::Iova(GuestMemory::kGpa + GuestMemory::used(queue)),
            .features = virtio::FeatureSet{virtio::Feature::version_1},
            .start = {.avail = start, .used = start, .in_flight = {}}};
  }
  Result<void> set_queue(std::uint16_t queue, std::uint16_t start = 0) {
    CW_TRY(kick_, KickFd::make());
    CW_TRY(call_, CallFd::make());
    return frontend_->set_queue(QueueIndex{queue}, {.ring = ring(queue, start), .kick = kick_, .call = call_});
  }
  /// Everything up to a queue that runs and is enabled.
  void start(std::uint16_t queue, std::uint16_t position = 0) {
    ASSERT_TRUE(frontend_->set_features(virtio::FeatureSet{virtio::Feature::version_1}));
    const std::vector<memory::Region> regions{region()};
    ASSERT_TRUE(frontend_->map(regions));
    const auto started = set_queue(queue, position);
    ASSERT_TRUE(started) << started.error().text();
    ASSERT_TRUE(frontend_->enable_queue(QueueIndex{queue}, true));
  }

  Census before_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<GuestMemory> memory_;
  Observer observer_;
  std::optional<KickFd> kick_;
  std::optional<CallFd> call_;
  std::unique_ptr<Frontend> frontend_;
};

/// What a test has a back-end send instead of a reply.
struct Retort {
  Bytes bytes;                  ///< nothing: stays silent
  std::size_t descriptors = 0;  ///< sent along
  bool hangs_up = false;
};

/// A back-end in a thread that answers as a good one does, but for the requests for which a retort is given.
class ScriptedBackend {
 public:
  using Script = std::map<Request, Retort>;
  ScriptedBackend(ProtocolFeatures offered, Script script)
      : offered_(offered),
        script_(std::move(script)),
        listener_(*UnixListener::bind(test_socket())),
        thread_([this](const std::stop_token& stop) { serve(stop); }) {}

  /// The requests that have come, in order.
  std::vector<Request> seen() {
    const std::scoped_lock lock(mutex_);
    return seen_;
  }

 private:
  void serve(const std::stop_token& stop) {
    std::optional<UnixSocket> socket;
    while (!stop.stop_requested() && !socket) {
      if (auto accepted = listener_.accept()) socket.emplace(std::move(*accepted));
      std::this_thread::sleep_for(milliseconds(1));
    }
    while (!stop.stop_requested() && socket && answer_one(stop, *socket)) continue;
  }
  bool read(const std::stop_token& stop, UnixSocket& socket, std::span<std::byte> to) {
    while (!to.empty()) {
      auto got = socket.receive(to);
      if (!got || got->closed || stop.stop_requested()) return false;
      for (auto& fd : got->fds) fds_.push_back(std::move(fd));
      if (got->bytes == 0) std::this_thread::sleep_for(milliseconds(1));
      to = to.subspan(got->bytes);
    }
    return true;
  }
  bool answer_one(const std::stop_token& stop, UnixSocket& socket) {
    Bytes head(kHeaderSize);
    if (!read(stop, socket, head)) return false;
    const auto header = value_of<wire::Header>(head);
    Bytes body(header.size);
    if (!read(stop, socket, body)) return false;
    const auto request = static_cast<Request>(header.request);
    {
      const std::scoped_lock lock(mutex_);
      seen_.push_back(request);
    }
    if (const auto found = script_.find(request); found != script_.end()) {
      const Retort& retort = found->second;
      if (retort.hangs_up) return false;
      const std::vector<const OwnedFd*> fds(retort.descriptors, &listener_.fd());
      return retort.bytes.empty() || socket.send(retort.bytes, fds).has_value();
    }
    const Bytes reply = good_reply(request, header, body);
    return reply.empty() || socket.send(reply).has_value();
  }
  Bytes good_reply(Request request, const wire::Header& header, const Bytes& body) const {
    const auto number = header.request;
    const auto features = virtio::FeatureSet{virtio::Feature::version_1}.with(kProtocolFeaturesBit);
    switch (request) {
      case Request::get_features:
        return encode_reply(number, U64Answer{features.bits()});
      case Request::get_protocol_features:
        return encode_reply(number, U64Answer{offered_.bits()});
      case Request::get_queue_num:
        return encode_reply(number, U64Answer{1});
      case Request::get_max_mem_slots:
        return encode_reply(number, U64Answer{32});
      case Request::get_status:
        return encode_reply(number, U64Answer{0xf});
      case Request::get_config:
        return message(number, wire::kVersion | wire::kReplyFlag, body);
      case Request::get_vring_base:
        return message(number, wire::kVersion | wire::kReplyFlag, body);
      default:
        return (header.flags & wire::kNeedReplyFlag) != 0 ? encode_reply(number, Done{}) : Bytes();
    }
  }

  ProtocolFeatures offered_;
  Script script_;
  UnixListener listener_;
  std::mutex mutex_;
  std::vector<Request> seen_;
  std::vector<OwnedFd> fds_;
  std::jthread thread_;
};

}  // namespace causeway::vhost_user::testing

// A Frontend on the test's thread, and what it is connected to on a thread of its own, since its requests wait: our
// own Backend with a FakeDevice, or a back-end whose every answer the test decides (scripted_backend.h).
#pragma once

#include "vdpa/vfio_groups.h"
#include "vhost_user/backend.h"
#include "vhost_user/frontend.h"
#include "vhost_user/scripted_backend.h"
#include "vhost_user/test_support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace causeway::vhost_user::testing {

/// Backend, Port and FakeDevice on a loop that runs in a thread.
class FarSide {
 public:
  explicit FarSide(std::uint16_t pairs = 1, BackendConfig config = {.path = test_socket(), .options = {}},
                   virtio::DeviceType type = virtio::DeviceType::net)
      : config_(std::move(config)) {
    auto fake = std::make_unique<FakeDevice>(pairs, "fake", type);
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
  void notify_area_changed(QueueIndex queue) override { doorbells.push_back(virtio::number(queue)); }
  void vfio_group_changed(QueueIndex queue) override { groups.push_back(virtio::number(queue)); }
  int config_changes = 0;
  std::vector<std::pair<unsigned, std::string>> failed;
  std::optional<std::string> gone;
  std::vector<unsigned> doorbells;
  std::vector<unsigned> groups;
};

/// Drives a port whose Device a test looks at; remembers which doorbells are on offer, and shares VFIO groups.
struct NearSide final : port::DriverSide {
  void config_changed() override {}
  void memory_lost() override {}
  void offer_notify_area(QueueIndex queue, const vdpa::NotifyArea& area) override {
    offers.insert_or_assign(queue, *identify(area.fd));
  }
  void withdraw_notify_area(QueueIndex queue) override { offers.erase(queue); }
  port::Doorbell doorbell(QueueIndex queue) const override {
    return offers.contains(queue) ? port::Doorbell::offered : port::Doorbell::none;
  }
  void offer_vfio_group(QueueIndex queue, const OwnedFd& group) override {
    shares.insert_or_assign(queue, *groups.share(group));
  }
  void withdraw_vfio_group(QueueIndex queue) override { shares.erase(queue); }
  std::map<QueueIndex, FileIdentity> offers;
  std::vector<std::string> told;  ///< what somebody like KVM would hear
  vdpa::VfioGroups groups{[this](const OwnedFd&) { return tell("add"); },
                          [this](const OwnedFd&) { return tell("remove"); }};
  std::map<QueueIndex, vdpa::VfioGroups::Share> shares;

 private:
  Result<void> tell(const char* what) {
    told.emplace_back(what);
    return {};
  }
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
  /// Gives the Frontend to a port with this driver side, which has negotiated and shared its memory.
  std::unique_ptr<port::Port> put_behind_port(NearSide& side) {
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(std::move(frontend_));
    auto port = *port::Port::make(*loop_, {.name = "near", .features_off = {}}, std::move(devices));
    EXPECT_TRUE(port->attach(side));
    EXPECT_TRUE(port->set_features({virtio::Feature::version_1}));
    EXPECT_TRUE(port->set_memory({region()}));
    return port;
  }
  static Result<void> start_behind(port::Port& port, QueueIndex queue) {
    const virtio::RingConfig config = ring(virtio::number(queue));
    CW_CHECK(port.set_queue_size(queue, config.size.entries()));
    CW_CHECK(port.set_queue_addresses(queue, {.kind = port::RingAddressKind::guest,
                                              .descriptors = config.descriptors.value(),
                                              .available = config.available.value(),
                                              .used = config.used.value()}));
    CW_TRY(auto kick, KickFd::make());
    return port.start_queue(queue, std::move(kick));
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

}  // namespace causeway::vhost_user::testing

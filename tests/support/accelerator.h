// A Device around another one that has doorbells, refuses what a test says, goes, and comes back.
#pragma once

#include "base/owned_fd.h"
#include "vdpa/device.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "support/guest_memory.h"

namespace causeway::testing {

/// Thread: control.
class Accelerator final : public vdpa::Device, private vdpa::DeviceObserver {
 public:
  static constexpr std::uint64_t kPage = 4096;

  /// `queues`: how many of the inner Device's it has.
  explicit Accelerator(std::unique_ptr<vdpa::Device> inner, std::string name = "accel",
                       std::optional<std::uint16_t> queues = std::nullopt)
      : inner_(std::move(inner)), info_(inner_->info()), doorbells_(value_or_die(make_memfd("doorbells", 64 * kPage))) {
    info_.name = std::move(name);
    info_.queues = queues.value_or(info_.queues);
    inner_->set_observer(this);
  }

  /// Before it is a port's: offers these not.
  void lack(vdpa::FeatureSet features) { info_.features = info_.features.minus(features); }

  /// Has no doorbells from now on. Those that it has are pages, and nobody hears them.
  void hide_doorbells() { has_doorbells_ = false; }

  struct Refuses {
    bool features = false;
    bool status = false;
    bool config = false;
    bool mtu = false;
    bool memory = false;
  } refuses;
  std::function<void(vdpa::QueueIndex)> on_stop;

  /// Ends all queues; those that can be asked know where they stopped.
  void die() {
    for (const auto queue : std::exchange(running_, {})) {
      if (auto state = inner_->stop_queue(queue, vdpa::StopMode::leave)) last_[queue] = *std::move(state);
    }
    forget(inner_->unmap(std::exchange(mapped_, {})));
    forget(inner_->set_status(vdpa::Status::reset));
    is_gone_ = true;
    observer_->device_gone({.code = Errc::gone, .what = "the test has pulled it out"});
  }
  void come_back() {
    is_gone_ = false;
    last_.clear();
    observer_->device_back();
  }
  /// Calls that came while it was gone.
  unsigned asked_while_gone() const { return asked_while_gone_; }
  std::size_t mapped_regions() const { return mapped_.size(); }
  bool runs(std::uint16_t queue) const { return running_.contains(vdpa::QueueIndex{queue}); }
  std::size_t writes() const { return writes_; }
  std::optional<std::uint16_t> mtu() const { return mtu_; }

  const vdpa::DeviceInfo& info() const override { return info_; }
  void set_observer(vdpa::DeviceObserver* observer) override { observer_ = observer; }
  Result<void> set_features(vdpa::FeatureSet features) override {
    CW_CHECK(allow(refuses.features || !features.is_subset_of(info_.features), "features"));
    return inner_->set_features(features);
  }
  vdpa::Status status() const override { return inner_->status(); }
  Result<void> set_status(vdpa::Status status) override {
    CW_CHECK(allow(refuses.status && status != vdpa::Status::reset, "status"));
    if (status == vdpa::Status::reset) running_.clear();
    return inner_->set_status(status);
  }
  Result<void> read_config(std::uint32_t offset, std::span<std::byte> to) const override {
    return inner_->read_config(offset, to);
  }
  Result<void> write_config(std::uint32_t offset, std::span<const std::byte> from) override {
    CW_CHECK(allow(refuses.config, "writes"));
    ++writes_;
    return inner_->write_config(offset, from);
  }
  std::uint32_t config_generation() const override { return inner_->config_generation(); }
  Result<void> map(std::span<const memory::Region> regions) override {
    CW_CHECK(allow(refuses.memory, "memory"));
    CW_CHECK(inner_->map(regions));
    mapped_.insert(mapped_.end(), regions.begin(), regions.end());
    return {};
  }
  Result<void> unmap(std::span<const memory::Region> regions) override {
    CW_CHECK(allow(false, ""));
    for (const auto& region : regions) {
      std::erase_if(mapped_, [&](const memory::Region& known) { return known.same_as(region); });
    }
    return inner_->unmap(regions);
  }
  Result<void> set_queue(vdpa::QueueIndex queue, vdpa::QueueSetup setup) override {
    CW_CHECK(allow(virtio::number(queue) >= info_.queues, "queue"));
    CW_CHECK(inner_->set_queue(queue, std::move(setup)));
    running_.insert(queue);
    return {};
  }
  Result<void> enable_queue(vdpa::QueueIndex queue, bool enabled) override {
    CW_CHECK(allow(false, ""));
    return inner_->enable_queue(queue, enabled);
  }
  Result<void> set_call(vdpa::QueueIndex queue, std::optional<CallFd> call) override {
    CW_CHECK(allow(false, ""));
    return inner_->set_call(queue, std::move(call));
  }
  Result<vdpa::QueueState> stop_queue(vdpa::QueueIndex queue, vdpa::StopMode mode) override {
    CW_CHECK(allow(false, ""));
    if (on_stop) on_stop(queue);
    running_.erase(queue);
    return inner_->stop_queue(queue, mode);
  }
  std::optional<vdpa::QueueState> last_state(vdpa::QueueIndex queue) const override {
    const auto found = last_.find(queue);
    return found == last_.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<vdpa::NotifyArea> notify_area(vdpa::QueueIndex queue) const override {
    if (!has_doorbells_) return std::nullopt;
    return vdpa::NotifyArea{.fd = doorbells_, .offset = kPage * virtio::number(queue), .size = kPage};
  }
  /// Any descriptor will do: nobody here asks what it is of.
  const OwnedFd* vfio_group(vdpa::QueueIndex queue) const override {
    return running_.contains(queue) ? &doorbells_ : nullptr;
  }
  std::optional<vdpa::QueueIndex> control_queue(vdpa::FeatureSet features) const override {
    return inner_->control_queue(features);
  }
  vdpa::ControlReply control(std::span<const std::byte> command) override { return inner_->control(command); }
  std::vector<vdpa::Counter> counters(vdpa::QueueIndex queue) const override { return inner_->counters(queue); }
  Result<void> set_mtu(std::uint16_t mtu) override {
    CW_CHECK(allow(refuses.mtu, "MTU"));
    mtu_ = mtu;
    return inner_->set_mtu(mtu);
  }

 private:
  // DeviceObserver, of the inner Device
  void config_changed() override { observer_->config_changed(); }
  void queue_failed(vdpa::QueueIndex queue, Error reason) override {
    observer_->queue_failed(queue, std::move(reason));
  }
  void device_gone(Error reason) override { observer_->device_gone(std::move(reason)); }

  Result<void> allow(bool is_refused, const char* what) {
    if (is_gone_) {
      ++asked_while_gone_;
      return fail(Errc::gone, "the accelerator is gone");
    }
    if (is_refused) return fail(Errc::not_supported, std::string("the accelerator cannot take this ") + what);
    return {};
  }
  static void forget(const Result<void>& /*result*/) {}

  std::unique_ptr<vdpa::Device> inner_;
  vdpa::DeviceInfo info_;
  OwnedFd doorbells_;
  vdpa::DeviceObserver* observer_ = nullptr;
  bool is_gone_ = false;
  bool has_doorbells_ = true;
  unsigned asked_while_gone_ = 0;
  std::size_t writes_ = 0;
  std::optional<std::uint16_t> mtu_;
  std::set<vdpa::QueueIndex> running_;
  std::vector<memory::Region> mapped_;
  std::map<vdpa::QueueIndex, vdpa::QueueState> last_;
};

}  // namespace causeway::testing

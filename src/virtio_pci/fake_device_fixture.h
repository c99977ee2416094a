// For the tests and fuzzers of this module: a Device that works its rings when it is told to, and a function over it.
#pragma once

#include "base/loop.h"
#include "base/worker.h"
#include "port/port.h"
#include "virtio/device_queue.h"
#include "virtio/net.h"
#include "virtio_pci/function.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace causeway::virtio_pci::testing {

template <class T>
T value_or_die(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}

inline constexpr std::uint32_t kFakeConfigBytes = 12;
inline constexpr std::uint32_t kFakeLargestRing = 256;

/// What a fake Device is; the defaults are a network device of one pair with a control queue.
struct FakeDeviceConfig {
  virtio::DeviceType type = virtio::DeviceType::net;
  std::uint16_t queues = 2;
  std::uint32_t largest_ring = kFakeLargestRing;
  virtio::FeatureSet features = virtio::FeatureSet{virtio::Feature::version_1, virtio::Feature::ring_packed}
                                    .with(virtio::Feature::event_idx)
                                    .with(virtio::NetFeature::ctrl_vq);
  bool records = true;
};

/// Leaves chains of odd ids in flight, and uses the others.
class FakeDevice final : public vdpa::Device {
 public:
  struct Queue {
    virtio::DeviceQueue ring;
    std::optional<CallFd> call;
    std::vector<virtio::Chain> left = {};
    bool failed = false;
  };

  explicit FakeDevice(const FakeDeviceConfig& config) : config_bytes(kFakeConfigBytes) {
    info_.name = "fake";
    info_.type = config.type;
    info_.features = config.features;
    info_.queues = config.queues;
    info_.queues_per_unit = config.type == virtio::DeviceType::net ? 2 : 1;
    info_.largest_ring = config.largest_ring;
    info_.config_size = kFakeConfigBytes;
    info_.can.record_in_flight = config.records;
  }

  const vdpa::DeviceInfo& info() const override { return info_; }
  void set_observer(vdpa::DeviceObserver* an_observer) override { observer = an_observer; }
  Result<void> set_features(virtio::FeatureSet some) override {
    if (refuses_features) return fail(Errc::not_supported, "refused");
    features = some;
    return {};
  }
  vdpa::Status status() const override { return status_; }
  Result<void> set_status(vdpa::Status status) override {
    status_ = status;
    if (status == vdpa::Status::reset) queues.clear();
    return {};
  }
  Result<void> read_config(std::uint32_t offset, std::span<std::byte> to) const override {
    if (!is_inside(offset, to.size())) return fail(Errc::peer_violation, "outside");
    std::memcpy(to.data(), config_bytes.data() + offset, to.size());
    return {};
  }
  Result<void> write_config(std::uint32_t offset, std::span<const std::byte> from) override {
    if (!is_inside(offset, from.size())) return fail(Errc::peer_violation, "outside");
    std::memcpy(config_bytes.data() + offset, from.data(), from.size());
    return {};
  }
  std::uint32_t config_generation() const override { return 0; }
  Result<void> map(std::span<const memory::Region> some) override {
    regions.insert(regions.end(), some.begin(), some.end());
    return use_map();
  }
  Result<void> unmap(std::span<const memory::Region> some) override {
    for (const auto& gone : some) {
      std::erase_if(regions, [&](const memory::Region& region) { return region.same_as(gone); });
    }
    return use_map();
  }
  Result<void> set_queue(vdpa::QueueIndex queue, vdpa::QueueSetup setup) override {
    if (virtio::number(queue) >= info_.queues) return fail(Errc::peer_violation, "no such queue");
    CW_TRY(auto map, memory::MemoryMap::make(regions));
    CW_TRY(auto ring, virtio::DeviceQueue::start(setup.ring, std::move(map), virtio::Remember::in_flight));
    queues.insert_or_assign(queue, Queue{.ring = std::move(ring), .call = std::move(setup.call)});
    return {};
  }
  Result<void> enable_queue(vdpa::QueueIndex /*queue*/, bool /*enabled*/) override { return {}; }
  Result<void> set_call(vdpa::QueueIndex queue, std::optional<CallFd> call) override {
    CW_TRY(Queue * state, find(queue));
    state->call = std::move(call);
    return {};
  }
  Result<vdpa::QueueState> stop_queue(vdpa::QueueIndex queue, vdpa::StopMode mode) override {
    CW_TRY(Queue * state, find(queue));
    if (mode == vdpa::StopMode::drain && !state->failed) {
      for (const virtio::Chain& chain : std::exchange(state->left, {})) state->ring.use(chain, 0);
      state->ring.publish();
    }
    auto position = state->ring.state(state->left);
    queues.erase(queue);
    return position;
  }
  std::optional<vdpa::QueueIndex> control_queue(virtio::FeatureSet some) const override {
    if (!some.has(virtio::NetFeature::ctrl_vq)) return std::nullopt;
    return vdpa::QueueIndex{info_.queues};
  }
  vdpa::ControlReply control(std::span<const std::byte> command) override {
    return on_control ? on_control(command) : vdpa::ControlReply{.ack = virtio::kCtrlOk};
  }
  std::vector<vdpa::Counter> counters(vdpa::QueueIndex) const override { return {}; }

  /// One pass over all rings.
  void work() {
    std::vector<vdpa::QueueIndex> failed;
    for (auto& [index, queue] : queues) {
      if (queue.failed) continue;
      virtio::ChainBatch batch;
      queue.ring.take(batch, 8);
      for (const virtio::Chain& chain : batch.chains()) {
        if (chain.id % 2 == 0 || queue.left.size() >= 8) {
          queue.ring.use(chain, 0);
        } else {
          queue.left.push_back(chain);
        }
      }
      if (queue.ring.publish() && queue.call) queue.call->signal();
      queue.failed = queue.ring.fault() != virtio::RingFault::none;
      if (queue.failed) failed.push_back(index);
    }
    report(failed);
  }
  Result<Queue*> find(vdpa::QueueIndex queue) {
    const auto found = queues.find(queue);
    if (found == queues.end()) return fail(Errc::not_found, "the queue does not run");
    return &found->second;
  }
  bool runs(std::uint16_t queue) const { return queues.contains(vdpa::QueueIndex{queue}); }

  std::map<vdpa::QueueIndex, Queue> queues;
  std::vector<memory::Region> regions;
  vdpa::DeviceObserver* observer = nullptr;
  virtio::FeatureSet features;
  bool refuses_features = false;
  std::function<vdpa::ControlReply(std::span<const std::byte> command)> on_control;
  std::vector<std::byte> config_bytes;

 private:
  bool is_inside(std::uint32_t offset, std::size_t size) const {
    return offset <= config_bytes.size() && size <= config_bytes.size() - offset;
  }
  Result<void> use_map() {
    CW_TRY(const auto map, memory::MemoryMap::make(regions));
    std::vector<vdpa::QueueIndex> failed;
    for (auto& [index, queue] : queues) {
      if (queue.failed || queue.ring.replace_map(map)) continue;
      queue.failed = true;
      failed.push_back(index);
    }
    report(failed);
    return {};
  }
  void report(std::span<const vdpa::QueueIndex> failed) const {
    for (const auto queue : failed) {
      if (observer != nullptr) observer->queue_failed(queue, {.code = Errc::peer_violation, .what = "a broken ring"});
    }
  }

  vdpa::DeviceInfo info_{};
  vdpa::Status status_ = vdpa::Status::reset;
};

/// A function and all that it stands on; `worker` must outlive it.
struct FunctionRig {
  FunctionRig(Loop& loop, Worker& worker, const FakeDeviceConfig& device_config = {}, FunctionConfig config = {}) {
    auto fake = std::make_unique<FakeDevice>(device_config);
    device = fake.get();
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(std::move(fake));
    port = value_or_die(port::Port::make(loop, {.name = "fake", .features_off = {}}, std::move(devices)));
    function = value_or_die(Function::make(loop, *port, worker, config));
  }

  template <class T>
  T get(std::uint64_t offset, vfio::RegionIndex region = vfio::RegionIndex::bar0) {
    T value{};
    if (auto done = function->read(region, offset, std::as_writable_bytes(std::span(&value, 1))); !done) {
      throw std::runtime_error(done.error().text());
    }
    return value;
  }
  template <class T>
  void set(std::uint64_t offset, T value, vfio::RegionIndex region = vfio::RegionIndex::bar0) {
    if (auto done = function->write(region, offset, std::as_bytes(std::span(&value, 1))); !done) {
      throw std::runtime_error(done.error().text());
    }
  }
  std::vector<std::byte> config_space() {
    std::vector<std::byte> space(kConfigSpaceBytes);
    if (auto done = function->read(vfio::RegionIndex::config, 0, space); !done) {
      throw std::runtime_error(done.error().text());
    }
    return space;
  }

  FakeDevice* device;
  std::unique_ptr<port::Port> port;
  std::unique_ptr<Function> function;
};

}  // namespace causeway::virtio_pci::testing

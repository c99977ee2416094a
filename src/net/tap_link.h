// A port connected to a tap interface of the host: queue pair N to the tap's queue N.
#pragma once

#include "net/link.h"
#include "net/tap_device.h"

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace causeway::net {

/// Frames go from the driver's buffers into the kernel and back with no copy of ours in between; offloads travel in the
/// vnet header, and the kernel resolves what the driver does not take. Thread: as Link and Task.
class TapLink final : public Link, public Task {
 public:
  static Result<std::unique_ptr<TapLink>> make(Worker& worker, std::string name, TapDevice tap);
  ~TapLink() override;

  const TapDevice& tap() const { return tap_; }
  /// The kernel chooses the receive queue, and says nothing of its hash.
  virtio::FeatureSet unsupported() const override { return {virtio::NetFeature::rss, virtio::NetFeature::hash_report}; }
  void inject(std::span<const std::byte> frame) override;
  void set_mtu(std::uint16_t mtu) override { mtu_ = mtu; }
  std::uint32_t poll() override;
  bool arm() override;
  void disarm() override;

 private:
  TapLink(Worker& worker, std::string name, TapDevice tap);
  void receivers_changed() override;
  std::uint32_t to_tap(std::uint16_t index, Pair& pair);
  std::uint32_t from_tap(std::uint16_t index, ReceiveQueue& queue);
  std::uint32_t longest_frame(const ReceiveQueue& queue) const;
  void watch(std::uint16_t index, bool wanted);

  TapDevice tap_;
  std::uint16_t mtu_ = 1500;
  std::uint32_t header_size_ = sizeof(virtio::NetHeader);
  std::array<bool, kMaxQueuePairs> watched_{};
  std::array<bool, kMaxQueuePairs> starved_{};  // the driver had no buffer for what the tap holds
  std::vector<iovec> iovecs_;
  std::vector<std::byte> spill_;  // catches what is longer than the driver's buffers, so that it is noticed
};

}  // namespace causeway::net

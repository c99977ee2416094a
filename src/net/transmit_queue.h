// The device side of a driver's transmit queue: chains in, frames out. Spec: virtio 1.3 section 5.1.6.2.
#pragma once

#include "base/event_fd.h"
#include "net/counters.h"
#include "net/frame.h"
#include "vdpa/device.h"
#include "virtio/split_device_queue.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace causeway::net {

/// A running transmit queue. Use: take a batch, move its frames, `complete` as many as were moved, from the first on.
/// Thread: worker.
class TransmitQueue {
 public:
  static constexpr std::uint16_t kBatch = 32;

  static Result<std::unique_ptr<TransmitQueue>> start(const vdpa::QueueSetup& setup,
                                                      std::shared_ptr<const memory::MemoryMap> map,
                                                      QueueCounters& counters);

  bool has_work() { return ring_.available() != 0; }
  /// The next frames, at most kBatch. A frame whose header lies is not dropped here: its `length` is 0.
  std::span<Frame> take();
  /// Gives the first `count` frames of the batch back to the driver and puts the others back to be taken again; calls
  /// the driver if it wants that.
  void complete(std::size_t count);

  bool arm() { return ring_.arm(); }
  void disarm() { ring_.disarm(); }
  void set_call(std::optional<CallFd> call) { call_ = std::move(call); }
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map) { return ring_.replace_map(std::move(map)); }
  virtio::RingFault fault() const { return ring_.fault(); }
  virtio::QueueState state() const { return ring_.state(); }
  QueueCounters& counters() { return *counters_; }

 private:
  TransmitQueue(virtio::SplitDeviceQueue ring, const vdpa::QueueSetup& setup, QueueCounters& counters);
  void describe(const virtio::Chain& chain, Frame& frame) const;

  virtio::SplitDeviceQueue ring_;
  std::optional<CallFd> call_;
  virtio::FeatureSet features_;
  std::uint32_t header_size_;
  QueueCounters* counters_;
  virtio::ChainBatch batch_;
  std::array<Frame, kBatch> frames_;
};

/// Bytes of the virtio header before each packet once `features` are negotiated.
std::uint32_t net_header_size(virtio::FeatureSet features);

}  // namespace causeway::net

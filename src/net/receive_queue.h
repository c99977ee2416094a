// The device side of a driver's receive queue: frames into the driver's buffers. Spec: virtio 1.3 section 5.1.6.3-4.
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
#include <vector>

namespace causeway::net {

/// A running receive queue. Delivered frames become visible in `flush`.
/// Thread: worker.
class ReceiveQueue {
 public:
  static Result<std::unique_ptr<ReceiveQueue>> start(const vdpa::QueueSetup& setup,
                                                     std::shared_ptr<const memory::MemoryMap> map,
                                                     QueueCounters& counters);

  /// Copies a frame from its sender's buffers into this driver's: the one copy. What is written as Ethernet header is
  /// `frame.ethernet`, the one that was decided on. A frame that cannot be taken is counted and lost. True when taken.
  bool deliver(const Frame& frame);
  /// The same for bytes of our own, Ethernet header included.
  bool deliver(const virtio::NetHeader& header, std::span<const std::byte> frame);

  /// For system calls that write straight into the driver's buffers: room for a virtio header and a frame of up to
  /// `frame_bytes`, as far as the driver has buffers. Empty: none. Valid until `commit`.
  std::span<const iovec> prepare(std::uint32_t frame_bytes);
  /// `bytes` were written into the prepared buffers, virtio header included (0: nothing). False when they were more
  /// than the buffers held: the frame is counted and lost.
  bool commit(std::size_t bytes);

  /// Makes what was delivered visible and calls the driver if it wants that.
  void flush();

  bool has_buffers() { return next_ < batch_.size() || ring_.available() != 0; }
  bool arm() { return ring_.arm() || next_ < batch_.size(); }
  void disarm() { ring_.disarm(); }
  void set_call(std::optional<CallFd> call) { call_ = std::move(call); }
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map);
  virtio::RingFault fault() const { return ring_.fault(); }
  virtio::FeatureSet features() const { return features_; }
  /// The negotiated features, with the GUEST_* offloads that the driver wants now (CTRL_GUEST_OFFLOADS).
  void set_offloads(virtio::FeatureSet features) { features_ = features; }
  /// Where another device must resume; buffers taken ahead are put back first.
  virtio::QueueState stop();
  QueueCounters& counters() { return *counters_; }

 private:
  /// A place in the buffers of the chains at hand.
  struct Cursor;
  ReceiveQueue(virtio::SplitDeviceQueue ring, const vdpa::QueueSetup& setup, QueueCounters& counters);
  void put_back();
  bool refill();
  std::size_t reserve(std::uint64_t bytes);
  std::size_t refuse_length();
  template <class Copy>
  bool place(std::span<const std::byte, kFrameStart> start, std::uint32_t length, Copy copy);
  void use_chains(std::size_t count, std::uint64_t bytes);

  static constexpr std::uint16_t kAhead = 32;  ///< buffers taken from the ring at a time

  virtio::SplitDeviceQueue ring_;
  std::optional<CallFd> call_;
  virtio::FeatureSet features_;
  std::uint32_t header_size_;
  bool mergeable_;
  QueueCounters* counters_;
  virtio::ChainBatch batch_;  // buffers taken ahead
  std::size_t next_ = 0;      // the first of them not yet filled
  std::size_t reserved_ = 0;  // chains that `prepare` has handed out
  std::uint64_t room_ = 0;    // bytes in those
  std::vector<iovec> iovecs_;
  std::uint64_t packets_ = 0;  // delivered since the last flush
  std::uint64_t bytes_ = 0;
};

}  // namespace causeway::net

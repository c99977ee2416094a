// The device side of a driver's receive queue: frames into the driver's buffers. Spec: virtio 1.3 section 5.1.6.3-4.
#pragma once

#include "base/event_fd.h"
#include "net/counters.h"
#include "net/frame.h"
#include "vdpa/device.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace causeway::net {

/// A running receive queue of either layout: each call works a batch. Delivered frames become visible in `flush`.
/// Thread: worker.
class ReceiveQueue {
 public:
  static Result<std::unique_ptr<ReceiveQueue>> start(const vdpa::QueueSetup& setup,
                                                     std::shared_ptr<const memory::MemoryMap> map,
                                                     QueueCounters& counters);
  virtual ~ReceiveQueue() = default;
  ReceiveQueue(const ReceiveQueue&) = delete;
  ReceiveQueue& operator=(const ReceiveQueue&) = delete;

  /// Copies frames from their senders' buffers into this driver's: the one copy. What is written as Ethernet header is
  /// `frame.ethernet`, the one that was decided on. Frames that cannot be taken are counted and lost.
  virtual void deliver(std::span<const Frame> frames) = 0;
  void deliver(const Frame& frame) { deliver(std::span(&frame, 1)); }
  /// The same for bytes of our own, Ethernet header included. False when they were lost.
  virtual bool deliver(const virtio::NetHeader& header, std::span<const std::byte> frame, HashResult hash = {}) = 0;

  /// For system calls that write straight into the driver's buffers: room for a virtio header and a frame of up to
  /// `frame_bytes`, as far as the driver has buffers. Empty: none. Valid until `commit`.
  virtual std::span<const iovec> prepare(std::uint32_t frame_bytes) = 0;
  /// `bytes` were written into the prepared buffers, virtio header included (0: nothing). False when they were more
  /// than the buffers held: the frame is counted and lost.
  virtual bool commit(std::size_t bytes) = 0;

  /// Makes what was delivered visible and calls the driver if it wants that.
  virtual void flush() = 0;

  /// Buffers at hand, which are taken from the ring when there are none: as many frames that fit one are not lost.
  virtual std::size_t buffers() = 0;
  virtual bool arm() = 0;
  virtual void disarm() = 0;
  virtual Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map) = 0;
  virtual virtio::RingFault fault() const = 0;
  /// Where another device must resume; buffers taken ahead are put back first.
  virtual virtio::QueueState stop() = 0;

  void set_call(std::optional<CallFd> call) { call_ = std::move(call); }
  /// The offloads that the driver takes, of those negotiated.
  virtio::FeatureSet features() const { return features_; }
  /// The negotiated features, with the GUEST_* offloads that the driver wants now (CTRL_GUEST_OFFLOADS).
  void set_offloads(virtio::FeatureSet features) { features_ = features; }
  QueueCounters& counters() { return *counters_; }

 protected:
  ReceiveQueue(const vdpa::QueueSetup& setup, QueueCounters& counters)
      : call_(setup.call), features_(setup.ring.features), counters_(&counters) {}
  /// For one that stands before another, which calls the driver.
  ReceiveQueue(virtio::FeatureSet features, QueueCounters& counters) : features_(features), counters_(&counters) {}
  void call_driver() {
    if (!call_) return;
    call_->signal();
    counters_->calls.add(1);
  }

 private:
  std::optional<CallFd> call_;
  virtio::FeatureSet features_;
  QueueCounters* counters_;
};

}  // namespace causeway::net

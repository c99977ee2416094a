// The device side of a driver's transmit queue: chains in, frames out. Spec: virtio 1.3 section 5.1.6.2.
#pragma once

#include "base/event_fd.h"
#include "net/counters.h"
#include "net/frame.h"
#include "vdpa/device.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace causeway::net {

/// A running transmit queue of either layout: each call works a batch. Use: take a batch, move its frames, `complete`
/// as many as were moved, from the first on. Thread: worker.
class TransmitQueue {
 public:
  static constexpr std::uint16_t kBatch = 32;

  /// Called on the worker's thread: the queue waits for these addresses until its map is replaced once more.
  using OnMiss = std::function<void(std::vector<memory::Miss>, std::uint64_t renewals)>;

  /// `map` may be a translated one.
  static Result<std::unique_ptr<TransmitQueue>> start(const vdpa::QueueSetup& setup,
                                                      std::shared_ptr<const memory::MemoryMap> map,
                                                      QueueCounters& counters, OnMiss on_miss = {});
  virtual ~TransmitQueue() = default;
  TransmitQueue(const TransmitQueue&) = delete;
  TransmitQueue& operator=(const TransmitQueue&) = delete;

  virtual bool has_work() = 0;
  /// The next frames, at most kBatch. A frame that breaks a rule is not dropped here: its `length` is 0, and whoever
  /// drops it calls `count_bad`.
  virtual std::span<Frame> take() = 0;
  /// Gives the first `count` frames of the batch back to the driver and puts the others back to be taken again; calls
  /// the driver if it wants that.
  virtual void complete(std::size_t count) = 0;

  virtual bool arm() = 0;
  virtual void disarm() = 0;
  /// It takes nothing until its map is replaced.
  virtual bool is_waiting() const { return false; }
  /// How often its map was replaced, where it may have to wait.
  virtual std::uint64_t renewals() const { return 0; }
  virtual Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map) = 0;
  virtual virtio::RingFault fault() const = 0;
  virtual virtio::QueueState state() const = 0;

  void set_call(std::optional<CallFd> call) { call_ = std::move(call); }
  QueueCounters& counters() { return *counters_; }
  void count_bad(const Frame& frame) {
    (frame.has_bad_header ? counters_->dropped_bad_header : counters_->dropped_bad_frame).add(1);
  }

 protected:
  TransmitQueue(const vdpa::QueueSetup& setup, QueueCounters& counters) : call_(setup.call), counters_(&counters) {}
  /// For one that stands before another, which calls the driver.
  explicit TransmitQueue(QueueCounters& counters) : counters_(&counters) {}
  void call_driver() {
    if (!call_) return;
    call_->signal();
    counters_->calls.add(1);
  }

 private:
  std::optional<CallFd> call_;
  QueueCounters* counters_;
};

/// Bytes of the virtio header before each packet once `features` are negotiated: 10, 12, or 20 with a hash.
std::uint32_t net_header_size(virtio::FeatureSet features);

}  // namespace causeway::net

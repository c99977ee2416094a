// The control virtqueue of a guest device, read by the Port on the control thread.
#pragma once

#include "base/event_fd.h"
#include "base/loop.h"
#include "base/result.h"
#include "memory/dirty_log.h"
#include "vdpa/device.h"
#include "virtio/device_queue.h"

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace causeway::port {

/// Reads commands from a running control queue and writes the answers. Thread: control.
class ControlQueue {
 public:
  /// Longest command accepted, in bytes: a MAC table of some thousand entries.
  static constexpr std::size_t kMaxCommand = 65536;
  using Handler = std::function<vdpa::ControlReply(std::span<const std::byte> command)>;
  using OnFault = std::function<void(Error)>;

  /// Starts reading; looks at the ring once without a kick.
  static Result<std::unique_ptr<ControlQueue>> start(Loop& loop, vdpa::QueueSetup setup,
                                                     std::shared_ptr<const memory::MemoryMap> map, Handler handler,
                                                     OnFault on_fault);
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map);
  void set_call(std::optional<CallFd> call) { call_ = std::move(call); }
  vdpa::QueueState state() const { return ring_.state(); }

 private:
  ControlQueue(virtio::DeviceQueue ring, vdpa::QueueSetup setup, Handler handler, OnFault on_fault);
  void serve();
  void serve_batch();
  void answer(const virtio::Chain& chain);
  std::uint32_t write(const virtio::Chain& chain, const vdpa::ControlReply& reply) const;

  virtio::DeviceQueue ring_;
  std::optional<KickFd> kick_;
  std::optional<CallFd> call_;
  Handler handler_;
  OnFault on_fault_;
  virtio::ChainBatch batch_;
  std::vector<std::byte> command_;
  std::optional<Loop::Registration> watch_;
};

}  // namespace causeway::port

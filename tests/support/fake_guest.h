// A guest without a VMM: the driver side of one port's network device, in this process. For tests and benchmarks.
#pragma once

#include "base/event_fd.h"
#include "port/port.h"
#include "virtio/driver_queue.h"
#include "virtio/net.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

namespace causeway::testing {

struct FakeGuestConfig {
  virtio::FeatureSet features;  ///< to negotiate; VERSION_1 is always added
  std::uint16_t queue_pairs = 1;
  std::uint32_t ring_size = 256;     ///< entries of every ring
  std::uint32_t buffer_size = 2048;  ///< bytes of every receive and transmit buffer, virtio header included
};

/// Negotiates, shares one memory file, starts its queue pairs and fills the receive rings.
/// Thread: construction and destruction on the port's control thread; a queue's functions on one thread at a time,
/// which may be another one.
class FakeGuest final : public port::DriverSide {
 public:
  static constexpr std::size_t kHeader = sizeof(virtio::NetHeader);

  static Result<std::unique_ptr<FakeGuest>> plug_in(port::Port& port, FakeGuestConfig config);
  ~FakeGuest() override;

  /// Its port has died, and is not there any more.
  void lose_port() { port_ = nullptr; }
  /// After lose_port: goes on with another one, which it tells what a front-end that reconnects does. Thread: the
  /// port's control thread.
  Result<void> move_to(port::Port& port);
  /// Another process has taken its port over; the guest knows nothing of that, only this object must.
  void is_now_on(port::Port& port) { port_ = &port; }
  /// The same as move_to of a guest that was reset meanwhile: it makes all its rings anew, where they lay before.
  Result<void> reboot_to(port::Port& port);

  /// Queues one frame for transmission on `pair`; false when all transmit buffers are in flight.
  bool send(std::uint16_t pair, const virtio::NetHeader& header, std::span<const std::byte> frame);
  /// The same, of the bytes that lie in the next buffer already: costs the driver no copy.
  bool send_again(std::uint16_t pair, std::uint32_t frame_bytes);
  /// Makes what was queued visible, and kicks if the device wants it.
  void flush(std::uint16_t pair);
  /// Takes transmit buffers back that the device has used; returns how many.
  std::uint32_t reap(std::uint16_t pair);
  /// The next received frame, in `frame()` until the next call; its buffer goes back to the device at once.
  struct Arrival {
    virtio::NetHeader header;
    std::vector<std::byte> frame;
  };
  std::optional<Arrival> receive(std::uint16_t pair);
  /// Asks to be called when a frame comes; true when there is one already.
  bool arm_receive(std::uint16_t pair) { return queues_[2u * pair].ring.arm(); }
  /// Takes received frames and gives their buffers back without looking at them; returns how many.
  std::uint32_t discard(std::uint16_t pair, std::uint32_t limit);

  /// Resets one queue (RING_RESET) while the others go on; `restart_queue` starts it again on a new ring, once for each
  /// queue, since its former memory is not used again. Thread: the port's control thread, and no other uses the queue.
  Result<void> reset_queue(std::uint16_t index);
  Result<void> restart_queue(std::uint16_t index);

  /// Stops a queue and starts it again where it stopped, as a front-end does around a change or a migration. Thread:
  /// the port's control thread.
  Result<void> stop_and_start(std::uint16_t queue);

  /// Writes the same header and frame into all transmit buffers of a pair, for `send_again`.
  void fill_transmit_buffers(std::uint16_t pair, const virtio::NetHeader& header, std::span<const std::byte> frame);
  /// Gives a command to the control virtqueue (there is one when CTRL_VQ is negotiated) and returns the device's
  /// answer; nothing while the device has not answered. `poll_control` asks again. Thread: the port's control thread.
  void send_control(std::span<const std::byte> command);
  std::optional<std::uint8_t> poll_control();

  /// Takes the memory away under the device, as a front-end can that is out of its mind.
  void truncate_memory() const;
  bool is_broken() const;
  const CallFd& receive_call(std::uint16_t pair) const { return queues_[2u * pair].call; }
  std::uint32_t config_changes() const { return config_changes_; }

  void config_changed() override { ++config_changes_; }
  std::uint32_t memory_losses() const { return memory_losses_; }
  void memory_lost() override { ++memory_losses_; }
  /// The doorbells that are on offer. It kicks by eventfd all the same.
  bool has_doorbell(std::uint16_t queue) const { return doorbells_.contains(virtio::QueueIndex{queue}); }
  void offer_notify_area(virtio::QueueIndex queue, const vdpa::NotifyArea& /*area*/) override {
    doorbells_.insert(queue);
  }
  void withdraw_notify_area(virtio::QueueIndex queue) override { doorbells_.erase(queue); }
  /// The queues whose VFIO group is on offer.
  bool has_vfio_group(std::uint16_t queue) const { return vfio_groups_.contains(virtio::QueueIndex{queue}); }
  void offer_vfio_group(virtio::QueueIndex queue, const OwnedFd& /*group*/) override { vfio_groups_.insert(queue); }
  void withdraw_vfio_group(virtio::QueueIndex queue) override { vfio_groups_.erase(queue); }
  port::Doorbell doorbell(virtio::QueueIndex queue) const override {
    return doorbells_.contains(queue) ? port::Doorbell::accepted : port::Doorbell::none;
  }

 private:
  struct Queue {
    virtio::RingConfig config;
    virtio::DriverQueue ring;
    KickFd kick;
    CallFd call;
    memory::Iova buffers;               // one per ring entry
    std::vector<std::uint16_t> unused;  // buffers of a transmit queue not in flight
  };
  FakeGuest(port::Port& port, FakeGuestConfig config) : port_(&port), config_(config) {}
  Result<void> start();
  Result<void> set_up();
  std::uint16_t control_index() const;
  Result<Queue> make_queue(std::uint32_t entries, std::size_t buffer_bytes);
  /// Tells the port of a queue and starts it.
  Result<void> give(std::uint16_t index, const Queue& queue);
  Result<void> start_queue(std::uint16_t index);
  Result<void> fill_and_give(std::uint16_t index);
  memory::Iova allocate(std::size_t bytes);
  memory::Iova buffer(const Queue& queue, std::uint64_t number) const;
  void offer(Queue& queue, std::uint64_t number);

  port::Port* port_;
  FakeGuestConfig config_;
  std::shared_ptr<const memory::MemoryMap> memory_;
  std::uint64_t allocated_ = 0;
  Result<void> start_control_queue();

  std::vector<Queue> queues_;
  std::optional<Queue> control_;
  std::uint32_t config_changes_ = 0;
  std::uint32_t memory_losses_ = 0;
  std::set<virtio::QueueIndex> doorbells_;
  std::set<virtio::QueueIndex> vfio_groups_;
};

}  // namespace causeway::testing

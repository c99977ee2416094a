// Tells a network function what its driver says through the control virtqueue, which the port itself reads.
// Spec: virtio 1.3 section 5.1.6.5.
#pragma once

#include "base/event_fd.h"
#include "base/loop.h"
#include "memory/memory_map.h"
#include "vfio/bus.h"
#include "virtio/driver_queue.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace causeway::virtio_pci {

/// A control virtqueue in memory of ours, at addresses of the function that no guest uses. Commands are told and not
/// waited for: the software Device has accepted them already. What the function refuses is logged. Thread: control.
class ControlDriver {
 public:
  /// What the function answers to a question behind its ack, or why it does not; a copy, good for the call.
  using OnAnswer = std::move_only_function<void(Result<std::span<const std::byte>> answer)>;

  /// Memory for the ring is mapped at `at`; bus and loop must outlive it. `ring_doorbell` tells the function to look.
  static Result<std::unique_ptr<ControlDriver>> make(Loop& loop, vfio::Bus& bus, std::string name, memory::Iova at,
                                                     virtio::FeatureSet features, std::function<void()> ring_doorbell);
  ControlDriver(const ControlDriver&) = delete;
  ControlDriver& operator=(const ControlDriver&) = delete;
  /// The function must use the ring no more.
  ~ControlDriver();

  const virtio::RingConfig& ring() const { return ring_; }
  /// What the function signals after each command.
  const EventFd& event() const { return event_; }
  /// False: it is too long, or too many are on their way.
  bool tell(std::span<const std::byte> command) { return send(command, 0, nullptr); }
  /// Asks for at most `answer_bytes`; `on_answer` is called from the loop when they have come, and never if the
  /// function does not answer. False: as of `tell`.
  bool ask(std::span<const std::byte> command, std::size_t answer_bytes, OnAnswer on_answer) {
    return send(command, answer_bytes, std::move(on_answer));
  }

  /// Takes what has been answered. The function's signal has it done too, where there is a vector for it.
  void reap();

  /// Bytes of memory that it maps.
  static std::uint64_t size();

 private:
  ControlDriver(vfio::Bus& bus, std::string name, memory::Region region, virtio::RingConfig ring,
                std::shared_ptr<const memory::MemoryMap> map, virtio::DriverQueue queue, EventFd event,
                std::function<void()> ring_doorbell);
  static constexpr std::uint16_t kEntries = 64;
  static constexpr std::size_t kSlots = kEntries / 2;
  /// A command on its way.
  struct Slot {
    bool is_used = false;
    std::size_t answer_bytes = 0;  // behind the ack
    OnAnswer on_answer;            // empty: it was told
  };

  bool send(std::span<const std::byte> command, std::size_t answer_bytes, OnAnswer on_answer);
  memory::Iova address_of(std::size_t slot) const;
  void take_answer(std::size_t slot, std::size_t written);

  vfio::Bus& bus_;
  std::string name_;
  memory::Region region_;
  virtio::RingConfig ring_;
  std::shared_ptr<const memory::MemoryMap> map_;
  virtio::DriverQueue queue_;
  EventFd event_;
  std::function<void()> ring_doorbell_;
  std::array<Slot, kSlots> slots_;
  std::optional<Loop::Registration> watch_;
};

}  // namespace causeway::virtio_pci

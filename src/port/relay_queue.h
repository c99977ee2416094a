// The relay's hot loop: chains of the guest's ring become chains of a shadow ring, and come back used.
#pragma once

#include "base/counter.h"
#include "base/event_fd.h"
#include "base/mapping.h"
#include "base/result.h"
#include "base/worker.h"
#include "memory/dirty_log.h"
#include "memory/memory_map.h"
#include "port/shadow_ring.h"
#include "vdpa/device.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace causeway::port {

/// How the relay kicks the Device: by its doorbell where it has one that can be mapped here.
struct DeviceKick {
  KickFd event;
  std::shared_ptr<const Mapping> doorbell;  ///< nullptr: by the event
  virtio::QueueIndex queue;                 ///< the Device's number of it
  void signal() const;
};

/// The guest's memory, by the addresses that its driver uses, and by those that the Device has it mapped at. Value
/// type.
struct RelayMaps {
  std::shared_ptr<const memory::MemoryMap> driver;  ///< where it is translated, chains wait for what it lacks
  std::shared_ptr<const memory::MemoryMap> device;
  /// No IOMMU lies in between.
  static RelayMaps untranslated(const std::shared_ptr<const memory::MemoryMap>& map) {
    return {.driver = map, .device = map};
  }
};

/// Works both rings of a relayed queue. Buffers stay where they are: only descriptors are copied, each read once,
/// checked, and named as the Device has it mapped.
///
/// Invariants: (1) a chain of the guest's is used exactly once, after the Device has used the one made from it; (2)
/// with IN_ORDER on the guest's side chains are used in the order taken, whatever the Device does; (3) the Device's ids
/// and lengths are believed only when they fit what it was given; (4) after a fault it touches neither ring.
/// Thread: its worker's; whatever is not a Task's member while it is on none.
class RelayQueue : public Task {
 public:
  /// Called once, on the worker's thread.
  using OnFault = std::function<void(Error)>;
  /// What chains wait for: none is taken until the maps are replaced. Value type.
  struct Wait {
    std::uint64_t number;  ///< from 1 on
    std::vector<memory::Miss> misses;
  };
  /// Called on the worker's thread.
  using OnMiss = std::function<void(Wait)>;
  struct Events {
    OnFault on_fault;
    OnMiss on_miss;
  };

  /// The log of `guest`, where it has one, gets the pages that the Device may have written, before the driver can see
  /// the chain used, and those of the ring that we write. Errc::peer_violation: the guest's ring or its position is
  /// wrong.
  static Result<std::unique_ptr<RelayQueue>> start(const vdpa::QueueSetup& guest, RelayMaps maps,
                                                   const ShadowRing& shadow, DeviceKick kick, OnFault on_fault,
                                                   OnMiss on_miss = {});

  /// Thread: worker, between polls.
  virtual Result<void> replace_maps(RelayMaps maps) = 0;
  /// Whether the ring has a byte at these addresses of the driver's, or a buffer that the Device has. Behind an IOMMU
  /// only. Thread: worker, between polls.
  virtual bool uses(const memory::IovaRange& range) const = 0;
  void set_call(std::optional<CallFd> call) { call_ = std::move(call); }
  void set_kick(DeviceKick kick) { kick_ = std::move(kick); }

  /// The Device works the shadow ring no more: gives back what it has used, and says where the next user of the guest's
  /// ring must resume.
  virtual virtio::QueueState finish() = 0;

  /// Chains that the Device has used.
  std::uint64_t relayed() const { return relayed_.value(); }
  /// Behind an IOMMU: buffers whose address was known, and pages that were not.
  std::uint64_t translated() const { return translated_.value(); }
  std::uint64_t missed() const { return missed_.value(); }
  /// The number of the wait that goes on; 0: there is none. Thread: any.
  std::uint64_t current_wait() const { return wait_.load(std::memory_order_acquire); }

 protected:
  RelayQueue(std::optional<CallFd> call, DeviceKick kick, Events events)
      : call_(std::move(call)), kick_(std::move(kick)), events_(std::move(events)) {}

  std::optional<CallFd> call_;
  DeviceKick kick_;
  Events events_;
  Counter relayed_;
  Counter translated_;
  Counter missed_;
  std::atomic<std::uint64_t> wait_{0};
};

}  // namespace causeway::port

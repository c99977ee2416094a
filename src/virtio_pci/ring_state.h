// The driver's side of the ring-state capability: where the function's rings stand, also after its death.
// Spec: docs/wire/virtio-pci.md.
#pragma once

#include "memory/memory_map.h"
#include "vdpa/device.h"
#include "vfio/bus.h"
#include "virtio/inflight.h"
#include "virtio_pci/registers.h"

#include <cstdint>
#include <optional>

namespace causeway::virtio_pci {

/// Thread: control.
class RingState {
 public:
  /// `bus` must outlive it.
  RingState(vfio::Bus& bus, Place place) : bus_(bus), registers_(bus, place) {}

  /// Has the function keep records for its `queues` rings of `entries`; after FEATURES_OK, before any queue is enabled.
  /// Errc::not_supported: it does not.
  Result<void> begin(virtio::Layout layout, std::uint16_t queues, virtio::QueueSize entries);
  bool has_begun() const { return region_.has_value(); }
  /// Whether it keeps one for a ring like this.
  bool keeps(virtio::QueueIndex queue, const virtio::RingConfig& ring) const;
  void forget() { region_.reset(); }

  /// Writes where the queue resumes. Before it is enabled; `keeps` it.
  Result<void> put_start(virtio::QueueIndex queue, const virtio::RingConfig& ring, const memory::MemoryMap& map) const;
  /// Stops the queue; afterwards the function touches neither its ring nor its buffers.
  Result<void> stop(virtio::QueueIndex queue, vdpa::StopMode mode) const;
  /// Where a queue stands that has stopped, or whose function has died. Errc::peer_violation: the record makes no
  /// sense.
  Result<vdpa::QueueState> state(virtio::QueueIndex queue, const virtio::RingConfig& ring,
                                 const memory::MemoryMap& map) const;

 private:
  vfio::Bus& bus_;
  Registers<RingStateCfg> registers_;
  std::optional<virtio::InflightRegion> region_;
};

}  // namespace causeway::virtio_pci

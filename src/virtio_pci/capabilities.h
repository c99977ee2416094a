// Where a function has its registers, as its configuration space says. Spec: virtio 1.3 section 4.1.4.
#pragma once

#include "base/result.h"
#include "vfio/bus.h"
#include "virtio/feature.h"
#include "virtio_pci/layout.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace causeway::virtio_pci {

/// A range of a BAR; inside it.
struct Place {
  vfio::RegionIndex bar;
  std::uint64_t offset;
  std::uint64_t bytes;
};

/// Value type.
struct FunctionLayout {
  virtio::DeviceType type;
  Place common;
  Place notify;
  std::uint32_t multiplier;  ///< bytes between the doorbells of neighbouring queues
  std::optional<Place> device;
  std::optional<Place> ring_state;  ///< of a RingStateCfg
};

/// Reads the capabilities; of several of one kind, the first that can be used counts (4.1.4.1). Errc::not_supported: it
/// is no modern virtio function, or a needed capability is missing; the text says which. Errc::peer_violation: the list
/// is broken.
Result<FunctionLayout> parse_config_space(std::span<const std::byte> config_space, const vfio::BusInfo& bus);

}  // namespace causeway::virtio_pci

// A ring of our own that a Device works in the place of a guest's: its memory, and where the Device sees it.
#pragma once

#include "base/result.h"
#include "memory/memory_map.h"
#include "virtio/driver_chain.h"
#include "virtio/ring.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace causeway::port {

/// Memory outside the guest's, with a ring that nobody has used and room for indirect tables. Value type; the memory is
/// shared.
struct ShadowRing {
  /// The longest chain that goes into an indirect table; a longer one must find room in the ring.
  static constexpr std::uint32_t kTableEntries = 256;
  /// Bytes between the places of two shadow rings: the largest one fits.
  static constexpr std::uint64_t kStride = 256ULL << 20;

  virtio::RingConfig config;
  std::optional<virtio::IndirectArea> tables;  ///< where INDIRECT_DESC is among the features
  memory::Region region;                       ///< to be mapped for the Device
  std::shared_ptr<const memory::MemoryMap> map;

  /// `features`: those negotiated with the Device. `at`: where the Device shall see it, aligned to a page. Its size is
  /// `entries`, or what comes next to it that the features' layout allows.
  static Result<ShadowRing> make(const std::string& name, virtio::FeatureSet features, std::uint16_t entries,
                                 memory::Iova at);
};

}  // namespace causeway::port

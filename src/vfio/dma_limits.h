// What an IOMMU can map.
#pragma once

#include "base/result.h"
#include "memory/memory_map.h"
#include "vfio/bus.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace causeway::vfio {

/// Value type.
struct DmaLimits {
  std::uint64_t page = 0;             ///< what IOVAs and sizes must be multiples of, a power of two
  std::vector<IovaRange> iovas;       ///< in order; at least one
  std::optional<std::uint32_t> maps;  ///< most at a time, where the kernel tells

  /// Reads the answer to VFIO_IOMMU_GET_INFO; an old kernel that tells no ranges lets all IOVAs be tried.
  /// Errc::peer_violation: cut off, or it contradicts itself.
  static Result<DmaLimits> read(std::span<const std::byte> answer);

  /// Errc::invalid_value: the region cannot be mapped; the text says which rule it breaks.
  Result<void> check(const memory::Region& region) const;
};

}  // namespace causeway::vfio

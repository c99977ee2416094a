// Where a region lies in the function's file, and which parts of it may be mapped.
#pragma once

#include "base/result.h"
#include "vfio/bus.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace causeway::vfio {

/// What VFIO answers about a region. Value type.
struct RegionAnswer {
  RegionInfo info;  ///< `mappable` as it was answered: not yet in whole pages
  std::uint64_t offset = 0;
  bool msix_is_mappable = false;  ///< mapping the page of the MSI-X table is allowed, too
};

/// Reads the answer to VFIO_DEVICE_GET_REGION_INFO, of the kernel or of a vfio-user server. Errc::peer_violation: cut
/// off, or it contradicts itself.
Result<RegionAnswer> read_region_answer(std::span<const std::byte> answer);

/// Where a function keeps its MSI-X table.
struct MsixTable {
  RegionIndex region;
  Area area;
  bool operator==(const MsixTable&) const = default;
};
/// Reads it from the first 256 bytes of the configuration space; nothing when the function has no MSI-X, or says so in
/// a way that makes no sense. Spec: PCI Express Base 7.7.2.
std::optional<MsixTable> find_msix_table(std::span<const std::byte> config);

/// The pages that lie wholly in one of the areas and hold no byte of `hole`. `page` is a power of two; areas and hole
/// end below 2^63.
std::vector<Area> whole_pages(std::span<const Area> areas, std::optional<Area> hole, std::uint64_t page);

}  // namespace causeway::vfio

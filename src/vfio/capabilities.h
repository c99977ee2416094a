// The capabilities that VFIO hangs behind some of its answers, as a list of offsets into them. The kernel writes them,
// and vfio-user servers write them alike, which are not trusted.
// Spec: include/uapi/linux/vfio.h, struct vfio_info_cap_header.
#pragma once

#include "base/result.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace causeway::vfio {

struct Capability {
  std::uint16_t id;
  std::uint16_t version;
  std::span<const std::byte> contents;  ///< from behind its header to the end of the answer: it does not say its size
};

/// The capabilities of an answer in the order of their list, which begins at `first`, or is empty when that is 0.
/// Errc::peer_violation: one is not inside the answer, or the list goes round.
Result<std::vector<Capability>> list_capabilities(std::span<const std::byte> answer, std::uint32_t first);

/// nullptr: there is none.
const Capability* find_capability(const std::vector<Capability>& capabilities, std::uint16_t id);

/// Two numbers, as VFIO_REGION_INFO_CAP_SPARSE_MMAP and VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE list them.
struct NumberPair {
  std::uint64_t first;
  std::uint64_t second;
  bool operator==(const NumberPair&) const = default;
};
/// Errc::peer_violation: the list does not fit; Errc::not_supported: it is of a version that we do not know.
Result<std::vector<NumberPair>> read_pairs(const Capability& capability);

}  // namespace causeway::vfio

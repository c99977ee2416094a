// The guest's memory behind an IOMMU, for tests of relays.
#pragma once

#include "memory/iotlb.h"

#include <cstdint>

#include "support/guest_memory.h"

namespace causeway::testing {

inline constexpr std::uint64_t kPage = memory::MemoryMap::kIommuPage;
/// Between the guest's addresses and the driver's.
inline constexpr std::uint64_t kApart = 0x3'0000'0000;

/// What the driver's addresses from `first` on lead to: the guest's memory, kApart below.
inline void learn(memory::Iotlb& iotlb, const GuestMemory& memory, memory::Iova first, std::uint64_t size,
                  memory::Access access = memory::Access::read_write) {
  const std::uint64_t offset = first.value() - kApart - GuestMemory::kBase;
  value_or_die(iotlb.update({.iova = first,
                             .size = size,
                             .frontend_va = memory::FrontendVa(GuestMemory::kFrontendBase + offset),
                             .access = access},
                            *memory.map()));
}

}  // namespace causeway::testing

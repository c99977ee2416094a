// The guest's memory behind an IOMMU, for tests of rings.
#pragma once

#include "memory/iotlb.h"
#include "virtio/ring.h"

#include <cstdint>

#include "support/guest_memory.h"

namespace causeway::testing {

inline constexpr std::uint64_t kPage = memory::MemoryMap::kIommuPage;
/// Between the guest's addresses and the driver's.
inline constexpr std::uint64_t kApart = 0x3'0000'0000;

/// What the driver's addresses from `first` on lead to: the guest's memory, kApart below.
inline memory::Translation translation(memory::Iova first, std::uint64_t size,
                                       memory::Access access = memory::Access::read_write) {
  const std::uint64_t offset = first.value() - kApart - GuestMemory::kBase;
  return {.iova = first,
          .size = size,
          .frontend_va = memory::FrontendVa(GuestMemory::kFrontendBase + offset),
          .access = access};
}
inline void learn(memory::Iotlb& iotlb, const GuestMemory& memory, memory::Iova first, std::uint64_t size,
                  memory::Access access = memory::Access::read_write) {
  value_or_die(iotlb.update(translation(first, size, access), *memory.map()));
}

/// A ring in the guest's memory by the driver's addresses.
inline virtio::RingConfig apart(virtio::RingConfig ring) {
  for (memory::Iova* area : {&ring.descriptors, &ring.available, &ring.used}) {
    *area = memory::Iova(area->value() + kApart);
  }
  return ring;
}

}  // namespace causeway::testing

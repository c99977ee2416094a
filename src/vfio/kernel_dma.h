// The DMA maps of a VFIO container.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"
#include "memory/memory_map.h"
#include "vfio/dma_limits.h"

#include <cstdint>
#include <map>

namespace causeway::vfio {

/// Closing the container, which destroying this does, ends all maps. Errors as those of Bus, but Errc::gone.
class KernelDma {
 public:
  /// Takes over a container with an IOMMU.
  static Result<KernelDma> make(OwnedFd container);

  const DmaLimits& limits() const { return limits_; }
  Result<void> map(const memory::Region& region);
  Result<void> unmap(const memory::Region& region);

 private:
  KernelDma(OwnedFd container, DmaLimits limits) : container_(std::move(container)), limits_(std::move(limits)) {}

  OwnedFd container_;
  DmaLimits limits_;
  std::map<std::uint64_t, std::uint64_t> mapped_;  // first IOVA to last
};

}  // namespace causeway::vfio

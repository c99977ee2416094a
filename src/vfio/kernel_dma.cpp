#include "vfio/kernel_dma.h"

#include "vfio/kernel_call.h"
#include "vfio/structure.h"

#include <fmt/format.h>

#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include <bit>
#include <cerrno>
#include <string>

namespace causeway::vfio {
namespace {

std::string memlock_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "an unknown number of";
  return limit.rlim_cur == RLIM_INFINITY ? "any number of" : std::to_string(limit.rlim_cur);
}

Error map_error(const memory::Region& region, const DmaLimits& limits) {
  Error error = system_error(fmt::format("map memory region {} for DMA", region.text()));
  if (error.sys_errno == ENOMEM) {
    error.what += fmt::format(
        " (to pin {} bytes: RLIMIT_MEMLOCK allows this process {} bytes in all; `ulimit -l`, or LimitMEMLOCK= of its "
        "service, "
        "raises it)",
        region.size, memlock_limit());
  } else if (error.sys_errno == ENOSPC) {
    error.what += fmt::format(
        " (the container takes {} maps at a time; dma_entry_limit of the kernel module vfio_iommu_type1 raises it)",
        limits.maps ? std::to_string(*limits.maps) : "only so many");
  }
  return error;
}

}  // namespace

Result<KernelDma> KernelDma::make(OwnedFd container) {
  CW_TRY(const auto answer,
         ask(container, VFIO_IOMMU_GET_INFO, bytes_of(vfio_iommu_type1_info{}), "ask for the limits of the IOMMU"));
  CW_TRY(auto limits, DmaLimits::read(answer));
  return KernelDma(std::move(container), std::move(limits));
}

Result<void> KernelDma::map(const memory::Region& region) {
  CW_CHECK(limits_.check(region));
  const std::uint64_t first = region.iova.value();
  const std::uint64_t last = first + (region.size - 1);
  // The one that begins last of all that begin before our end: no other can overlap unless it does.
  const auto next = mapped_.upper_bound(last);
  if (next != mapped_.begin() && std::prev(next)->second >= first) {
    const auto& [other_first, other_last] = *std::prev(next);
    return fail(Errc::invalid_value, fmt::format("memory region {} overlaps what is mapped from {:#x} to {:#x}",
                                                 region.text(), other_first, other_last));
  }
  vfio_iommu_type1_dma_map request{.argsz = sizeof request,
                                   .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                   .vaddr = std::bit_cast<std::uintptr_t>(region.mapping->data()),
                                   .iova = first,
                                   .size = region.size};
  if (::ioctl(container_.borrow(), VFIO_IOMMU_MAP_DMA, &request) < 0) return fail(map_error(region, limits_));
  mapped_.emplace(first, last);
  return {};
}

Result<void> KernelDma::unmap(const memory::Region& region) {
  const auto found = mapped_.find(region.iova.value());
  if (found == mapped_.end() || found->second - found->first != region.size - 1) {
    return fail(Errc::not_found, fmt::format("memory region {} is not mapped for DMA", region.text()));
  }
  // Ends in a list of bytes without a length, which is why it cannot be initialized by name.
  vfio_iommu_type1_dma_unmap request{};
  request.argsz = sizeof request;
  request.iova = region.iova.value();
  request.size = region.size;
  if (::ioctl(container_.borrow(), VFIO_IOMMU_UNMAP_DMA, &request) < 0 || request.size != region.size) {
    return fail(system_error(fmt::format("end the DMA map of memory region {}", region.text())));
  }
  mapped_.erase(found);
  return {};
}

}  // namespace causeway::vfio

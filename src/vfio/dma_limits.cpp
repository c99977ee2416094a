#include "vfio/dma_limits.h"

#include "base/mapping.h"
#include "vfio/capabilities.h"
#include "vfio/structure.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <linux/vfio.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <string>
#include <utility>

namespace causeway::vfio {
namespace {

Result<std::vector<IovaRange>> read_ranges(const Capability& capability) {
  CW_TRY(const auto pairs, read_pairs(capability));
  std::vector<IovaRange> ranges;
  for (const auto& [first, last] : pairs) {
    if (first > last) return fail(Errc::peer_violation, fmt::format("IOVA range {:#x} to {:#x} is empty", first, last));
    ranges.push_back({.first = memory::Iova(first), .last = memory::Iova(last)});
  }
  if (ranges.empty()) return fail(Errc::peer_violation, "the IOMMU has no usable IOVAs");
  std::ranges::sort(ranges, {}, &IovaRange::first);
  return ranges;
}

std::string text_of(const std::vector<IovaRange>& ranges) {
  std::vector<std::string> texts;
  texts.reserve(ranges.size());
  for (const auto& [first, last] : ranges) texts.push_back(fmt::format("{} to {}", first, last));
  return fmt::format("{}", fmt::join(texts, ", "));
}

}  // namespace

Result<DmaLimits> DmaLimits::read(std::span<const std::byte> answer) {
  const auto head = load<vfio_iommu_type1_info>(answer);
  if (!head) return fail(Errc::peer_violation, fmt::format("IOMMU answer of {} bytes is cut off", answer.size()));
  const bool tells_pages = (head->flags & VFIO_IOMMU_INFO_PGSIZES) != 0 && head->iova_pgsizes != 0;
  DmaLimits limits;
  limits.page = tells_pages ? std::uint64_t{1} << std::countr_zero(std::uint64_t{head->iova_pgsizes}) : page_size();
  const bool has_capabilities = (head->flags & VFIO_IOMMU_INFO_CAPS) != 0;
  CW_TRY(const auto capabilities, list_capabilities(answer, has_capabilities ? head->cap_offset : 0));
  if (const Capability* const found = find_capability(capabilities, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)) {
    CW_TRY(limits.iovas, read_ranges(*found));
  } else {
    limits.iovas = {{.first = memory::Iova(0), .last = memory::Iova(std::numeric_limits<std::uint64_t>::max())}};
  }
  if (const Capability* const found = find_capability(capabilities, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL)) {
    limits.maps = load<std::uint32_t>(found->contents);
  }
  return limits;
}

Result<void> DmaLimits::check(const memory::Region& region) const {
  const std::pair<const char*, std::uint64_t> aligned[] = {
      {"IOVA", region.iova.value()},
      {"size", region.size},
      {"address in this process", std::bit_cast<std::uintptr_t>(region.mapping->data())}};
  for (const auto& [what, value] : aligned) {
    if (value % page == 0) continue;
    return fail(Errc::invalid_value,
                fmt::format("memory region {}: its {} {:#x} is no multiple of the IOMMU's pages of {:#x} bytes",
                            region.text(), what, value, page));
  }
  const memory::Iova last(region.iova.value() + (region.size - 1));
  const auto holds = [&](const IovaRange& range) { return range.first <= region.iova && last <= range.last; };
  if (std::ranges::any_of(iovas, holds)) return {};
  return fail(Errc::invalid_value, fmt::format("memory region {} is outside of the IOVAs that the IOMMU can map: {}",
                                               region.text(), text_of(iovas)));
}

}  // namespace causeway::vfio

// Answers of VFIO of any bytes: what is taken from them is inside the region, and in whole pages. Input: which answer
// (1 byte), the answer; of a region, the configuration space (256 bytes) is before it.
#include "vfio/dma_limits.h"
#include "vfio/region_layout.h"

#include <cstdlib>
#include <span>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace causeway::vfio;

constexpr std::uint64_t kPage = 4096;
constexpr std::size_t kConfig = 256;

void require(bool holds) {
  if (!holds) std::abort();
}

/// A copy of its own, so that a byte read behind it is noticed.
std::vector<std::byte> copy(std::span<const std::byte> bytes) {
  return {bytes.begin(), bytes.end()};
}

void try_region(std::span<const std::byte> config, std::span<const std::byte> answer) {
  const auto table = find_msix_table(copy(config));
  const auto region = read_region_answer(copy(answer));
  if (!region) return;
  const auto hole = table ? std::optional(table->area) : std::nullopt;
  for (const Area& pages : whole_pages(region->info.mappable, hole, kPage)) {
    require(pages.size != 0 && pages.offset % kPage == 0 && pages.size % kPage == 0);
    require(pages.offset + pages.size <= region->info.size);
    if (hole) require(pages.offset + pages.size <= hole->offset || pages.offset >= hole->offset + hole->size);
  }
}

void try_iommu(std::span<const std::byte> answer) {
  const auto limits = DmaLimits::read(copy(answer));
  if (!limits) return;
  require(limits->page != 0 && !limits->iovas.empty());
  for (const IovaRange& range : limits->iovas) require(range.first <= range.last);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  if (size == 0) return 0;
  if (data[0] % 2 == 0) {
    try_iommu(bytes.subspan(1));
  } else if (size > kConfig) {
    try_region(bytes.subspan(1, kConfig), bytes.subspan(1 + kConfig));
  }
  return 0;
}

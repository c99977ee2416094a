#include "vfio/region_layout.h"

#include "vfio/capabilities.h"
#include "vfio/structure.h"

#include <fmt/format.h>

#include <endian.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <algorithm>
#include <limits>

namespace causeway::vfio {
namespace {

constexpr std::uint64_t kLongestFile = std::numeric_limits<std::int64_t>::max();

Result<std::vector<Area>> read_sparse_areas(const Capability& capability, std::uint64_t region_size) {
  CW_TRY(const auto pairs, read_pairs(capability));
  std::vector<Area> areas;
  for (const auto& [offset, size] : pairs) {
    if (offset > region_size || size > region_size - offset) {
      return fail(Errc::peer_violation, fmt::format("mappable area {:#x}+{:#x} is not inside its region of {:#x} bytes",
                                                    offset, size, region_size));
    }
    areas.push_back({.offset = offset, .size = size});
  }
  return areas;
}

/// A register of the configuration space, of which `config` holds at least as much as is asked for.
std::uint16_t register16(std::span<const std::byte> config, std::size_t at) {
  return le16toh(*load<std::uint16_t>(config, at));
}
std::uint32_t register32(std::span<const std::byte> config, std::size_t at) {
  return le32toh(*load<std::uint32_t>(config, at));
}

/// Where a capability begins; nothing when the function has none of that kind.
std::optional<std::size_t> find_pci_capability(std::span<const std::byte> config, std::uint8_t id) {
  if ((register16(config, PCI_STATUS) & PCI_STATUS_CAP_LIST) == 0) return std::nullopt;
  // Each takes four bytes at least: more steps than this would go round.
  constexpr int kMost = (PCI_CFG_SPACE_SIZE - PCI_STD_HEADER_SIZEOF) / 4;
  auto at = std::to_integer<std::size_t>(config[PCI_CAPABILITY_LIST]) & ~std::size_t{3};
  for (int step = 0; step < kMost && at >= PCI_STD_HEADER_SIZEOF; ++step) {
    if (std::to_integer<std::uint8_t>(config[at]) == id) return at;
    at = std::to_integer<std::size_t>(config[at + 1]) & ~std::size_t{3};
  }
  return std::nullopt;
}

}  // namespace

Result<RegionAnswer> read_region_answer(std::span<const std::byte> answer) {
  const auto head = load<vfio_region_info>(answer);
  if (!head) return fail(Errc::peer_violation, fmt::format("region answer of {} bytes is cut off", answer.size()));
  if (head->size > kLongestFile || head->offset > kLongestFile - head->size) {
    return fail(Errc::peer_violation,
                fmt::format("region {} at {:#x}+{:#x} is in no file", head->index, head->offset, head->size));
  }
  const auto has = [&head](std::uint32_t flag) { return (head->flags & flag) != 0; };
  RegionAnswer region{.info = {.size = head->size,
                               .readable = has(VFIO_REGION_INFO_FLAG_READ),
                               .writable = has(VFIO_REGION_INFO_FLAG_WRITE),
                               .mappable = {}},
                      .offset = head->offset};
  CW_TRY(const auto capabilities, list_capabilities(answer, has(VFIO_REGION_INFO_FLAG_CAPS) ? head->cap_offset : 0));
  region.msix_is_mappable = find_capability(capabilities, VFIO_REGION_INFO_CAP_MSIX_MAPPABLE) != nullptr;
  // Capabilities that did not fit into the answer may say what must not be mapped.
  const bool is_cut = has(VFIO_REGION_INFO_FLAG_CAPS) && head->cap_offset == 0;
  if (!has(VFIO_REGION_INFO_FLAG_MMAP) || is_cut) return region;
  if (const Capability* const sparse = find_capability(capabilities, VFIO_REGION_INFO_CAP_SPARSE_MMAP)) {
    CW_TRY(region.info.mappable, read_sparse_areas(*sparse, head->size));
  } else {
    region.info.mappable = {{.offset = 0, .size = head->size}};
  }
  return region;
}

std::optional<MsixTable> find_msix_table(std::span<const std::byte> config) {
  if (config.size() < PCI_CFG_SPACE_SIZE) return std::nullopt;
  const auto at = find_pci_capability(config, PCI_CAP_ID_MSIX);
  if (!at || *at + PCI_CAP_MSIX_SIZEOF > PCI_CFG_SPACE_SIZE) return std::nullopt;
  const std::uint32_t place = register32(config, *at + PCI_MSIX_TABLE);
  const std::uint64_t entries = (register16(config, *at + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1;
  const std::uint32_t bar = place & PCI_MSIX_TABLE_BIR;
  if (bar > number(RegionIndex::bar5)) return std::nullopt;
  return MsixTable{.region = static_cast<RegionIndex>(bar),
                   .area = {.offset = place & PCI_MSIX_TABLE_OFFSET, .size = entries * PCI_MSIX_ENTRY_SIZE}};
}

std::vector<Area> whole_pages(std::span<const Area> areas, std::optional<Area> hole, std::uint64_t page) {
  const auto down = [page](std::uint64_t value) { return value & ~(page - 1); };
  const auto up = [page, down](std::uint64_t value) { return down(value + page - 1); };
  std::vector<Area> pages;
  const auto add = [&pages](std::uint64_t begin, std::uint64_t end) {
    if (begin < end) pages.push_back({.offset = begin, .size = end - begin});
  };
  for (const Area& area : areas) {
    const std::uint64_t begin = up(area.offset);
    const std::uint64_t end = down(area.offset + area.size);
    if (!hole) {
      add(begin, end);
      continue;
    }
    add(begin, std::min(end, down(hole->offset)));
    add(std::max(begin, up(hole->offset + hole->size)), end);
  }
  return pages;
}

}  // namespace causeway::vfio

// Shows what a vfio-user server has, and does to it what every driver does: reads configuration space, maps a piece of
// memory, looks at a page of a BAR through its mapping, resets. Usage: vfio_user_probe SOCKET
#include "base/mapping.h"
#include "vfio_user/client.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace {

using namespace causeway;

Result<void> show_regions(vfio::Bus& bus) {
  for (std::size_t i = 0; i < vfio::kRegions; ++i) {
    const vfio::RegionInfo& region = bus.info().regions[i];
    if (region.size == 0) continue;
    fmt::print("region {}: {:#x} bytes{}{}, {} mappable areas\n", i, region.size, region.readable ? ", readable" : "",
               region.writable ? ", writable" : "", region.mappable.size());
    for (const vfio::Area& area : region.mappable) {
      const auto file = bus.file_of(static_cast<vfio::RegionIndex>(i), area);
      if (!file) return fail(Errc::peer_violation, fmt::format("area {:#x} has no file", area.offset));
      CW_TRY(const auto mapped, Mapping::map(file->fd, file->offset, area.size));
      fmt::print("  {:#x}+{:#x}, mapped\n", area.offset, mapped->size());
    }
  }
  return {};
}

/// Configuration space, which begins with `id`, by requests that do not wait for each other.
Result<void> read_all_at_once(vfio::Bus& bus, std::span<const std::uint16_t> id) {
  std::array<vfio::Access, 64> accesses{};
  for (std::size_t i = 0; i < accesses.size(); ++i) {
    accesses[i] = {.region = vfio::RegionIndex::config, .offset = 4 * i, .is_write = false, .size = 4, .value = {}};
  }
  CW_CHECK(bus.access(accesses));
  if (std::ranges::equal(accesses.front().bytes(), std::as_bytes(id))) return {};
  return fail(Errc::peer_violation, "configuration space reads otherwise when it is read at once");
}

Result<void> probe(const char* socket) {
  Loop loop;
  CW_TRY(const auto bus, vfio_user::Client::connect(loop, {.path = socket}));
  std::array<std::uint16_t, 2> id{};
  CW_CHECK(bus->read(vfio::RegionIndex::config, 0, std::as_writable_bytes(std::span(id))));
  CW_CHECK(read_all_at_once(*bus, id));
  fmt::print("PCI id {:04x}:{:04x}, {} MSI-X vectors{}\n", id[0], id[1], bus->info().vectors,
             bus->info().can_reset ? ", can be reset" : "");
  CW_CHECK(show_regions(*bus));
  constexpr std::uint64_t kBytes = 1 << 20;
  CW_TRY(auto file, make_memfd("probe", kBytes));
  CW_TRY(const auto region,
         memory::Region::map(memory::Iova(kBytes), memory::FrontendVa(kBytes), kBytes, std::move(file), 0));
  CW_CHECK(bus->dma_map(region));
  fmt::print("memory at {}: mapped\n", region.iova);
  CW_CHECK(bus->dma_unmap(region));
  if (bus->info().can_reset) CW_CHECK(bus->reset());
  fmt::print("unmapped, reset\n");
  return {};
}

}  // namespace

int main(int count, char** words) {
  if (count != 2) {
    fmt::print(stderr, "usage: vfio_user_probe SOCKET\n");
    return 2;
  }
  const auto probed = probe(words[1]);
  if (!probed) fmt::print(stderr, "{}\n", probed.error().text());
  return probed ? 0 : 1;
}

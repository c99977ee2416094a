#include "virtio/ring.h"

#include "virtio/packed_ring.h"

#include <fmt/format.h>

#include <bit>

namespace causeway::virtio {
namespace {

Result<memory::GuestSpan> locate_area(std::string_view name, memory::Iova address, RingAreaSizes::Area area,
                                      const memory::MemoryMap& map, std::vector<std::shared_ptr<const Mapping>>& own) {
  const auto [size, alignment, access] = area;
  if (address.value() % alignment != 0) {
    return fail(Errc::peer_violation, fmt::format("{} at {} is not aligned to {} bytes", name, address, alignment));
  }
  auto span = map.translate(address, size, access);
  if (!span && map.is_translated()) {
    CW_TRY(auto run, map.join(address, size, access));
    span = run.bytes;
    own.push_back(std::move(run.own));
  }
  if (!span) {
    return fail(Errc::peer_violation, fmt::format("{} at {}+{:#x} is not inside guest memory", name, address, size));
  }
  if (!span->is_aligned(alignment)) {
    return fail(Errc::peer_violation,
                fmt::format("{} at {} lies in a memory region whose file offset is not aligned to {} bytes", name,
                            address, alignment));
  }
  return *span;
}

}  // namespace

Result<QueueSize> QueueSize::make(Layout layout, std::uint32_t entries) {
  if (entries == 0 || entries > kMax) {
    return fail(Errc::peer_violation, fmt::format("ring size {} must be from 1 to {}", entries, kMax));
  }
  if (layout == Layout::split && !std::has_single_bit(entries)) {
    return fail(Errc::peer_violation, fmt::format("ring size {} must be a power of two from 1 to {}", entries, kMax));
  }
  return QueueSize(static_cast<std::uint16_t>(entries));
}

QueueState QueueState::initial(Layout layout) {
  if (layout == Layout::split) return {};
  return {.avail = kWrapCounter, .used = kWrapCounter, .in_flight = {}};
}

std::string_view text(RingFault fault) {
  switch (fault) {
    case RingFault::none:
      return "no fault";
    case RingFault::avail_index_jumped:
      return "the driver made more available than the ring holds";
    case RingFault::head_out_of_range:
      return "the available ring names a descriptor beyond the table";
    case RingFault::next_out_of_range:
      return "a descriptor's next field points beyond its table";
    case RingFault::chain_too_long:
      return "a descriptor chain is longer than allowed, or is a loop";
    case RingFault::outside_memory:
      return "a descriptor points outside guest memory";
    case RingFault::indirect_not_negotiated:
      return "an indirect descriptor, which was not negotiated";
    case RingFault::indirect_bad_length:
      return "an indirect table whose length is no multiple of 16, or is 0";
    case RingFault::indirect_nested:
      return "an indirect table inside an indirect table, or followed by a descriptor";
    case RingFault::indirect_too_long:
      return "an indirect table with more entries than allowed";
    case RingFault::readable_after_writable:
      return "a device-readable descriptor after a device-writable one";
    case RingFault::chain_in_flight:
      return "a chain was made available again that is in flight";
    case RingFault::chain_without_use:
      return "a descriptor chain of a shape that this queue cannot use";
    case RingFault::access_denied:
      return "a descriptor asks for what the IOMMU denies";
    case RingFault::translation_missed:
      return "addresses that are not known yet";
  }
  return "unknown fault";
}

Result<RingAreas> RingAreas::locate(const RingConfig& config, const memory::MemoryMap& map) {
  const Layout layout = config.layout();
  const bool packed = layout == Layout::packed;
  const auto sizes = RingAreaSizes::of(layout, config.size);
  RingAreas areas;
  CW_TRY(areas.descriptors, locate_area(packed ? "descriptor ring" : "descriptor table", config.descriptors,
                                        sizes.descriptors, map, areas.own));
  CW_TRY(areas.available, locate_area(packed ? "driver event suppression" : "available ring", config.available,
                                      sizes.available, map, areas.own));
  CW_TRY(areas.used,
         locate_area(packed ? "device event suppression" : "used ring", config.used, sizes.used, map, areas.own));
  return areas;
}

bool RingAreas::list_missing(const RingConfig& config, const memory::MemoryMap& map,
                             std::vector<memory::Miss>& misses) {
  const auto sizes = RingAreaSizes::of(config.layout(), config.size);
  const auto list = [&](memory::Iova at, const RingAreaSizes::Area& area) {
    return map.list_missing(at, area.bytes, area.access, misses);
  };
  return list(config.descriptors, sizes.descriptors) && list(config.available, sizes.available) &&
         list(config.used, sizes.used);
}

bool RingAreas::overlap(const RingConfig& config, const memory::IovaRange& range) {
  const auto sizes = RingAreaSizes::of(config.layout(), config.size);
  const auto has_part_of = [&](memory::Iova at, const RingAreaSizes::Area& area) {
    return range.overlaps({.first = at, .size = area.bytes});
  };
  return has_part_of(config.descriptors, sizes.descriptors) || has_part_of(config.available, sizes.available) ||
         has_part_of(config.used, sizes.used);
}

}  // namespace causeway::virtio

#include "virtio/ring_marks.h"

namespace causeway::virtio {

Result<std::vector<memory::IovaRange>> written_areas(const RingConfig& ring,
                                                     const std::shared_ptr<const memory::MemoryMap>& map) {
  const auto sizes = RingAreaSizes::of(ring.layout(), ring.size);
  std::vector<memory::IovaRange> areas{{.first = ring.used, .size = sizes.used.bytes}};
  if (ring.layout() == Layout::packed) {
    areas.push_back({.first = ring.descriptors, .size = sizes.descriptors.bytes});
  }
  if (!map->is_translated()) return areas;
  memory::Translator driver(map);
  memory::Translator behind(memory::MemoryMap::behind(map));
  std::vector<memory::IovaRange> places;
  bool is_known = true;
  for (const memory::IovaRange& area : areas) {
    is_known =
        is_known && driver.translate(area.first.value(), area.size, memory::Access::write, [&](const auto& piece) {
          const auto at = behind.iova_of(piece);
          is_known = is_known && at.has_value();
          if (at) places.push_back({.first = *at, .size = piece.size()});
        });
  }
  if (!is_known) return fail(Errc::peer_violation, "the ring does not lie in memory that the device may write");
  return places;
}

}  // namespace causeway::virtio

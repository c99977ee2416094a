// What the device side of a ring writes into the ring itself, in the log of written pages.
#pragma once

#include "memory/dirty_log.h"
#include "virtio/ring.h"

#include <span>
#include <vector>

namespace causeway::port {

/// Where the device side writes. Of a packed ring used descriptors lie among the available ones.
inline std::vector<memory::IovaRange> written_areas(const virtio::RingConfig& ring) {
  const auto sizes = virtio::RingAreaSizes::of(ring.layout(), ring.size);
  std::vector<memory::IovaRange> areas{{.first = ring.used, .size = sizes.used.bytes}};
  if (ring.layout() == virtio::Layout::packed) {
    areas.push_back({.first = ring.descriptors, .size = sizes.descriptors.bytes});
  }
  return areas;
}

/// After a publish, and after a change of event suppression. Cost when all is marked: one load for every eight pages.
inline void mark_ring(const memory::DirtyLog& log, std::span<const memory::IovaRange> areas) {
  memory::full_fence();  // see DirtyLog::mark
  for (const memory::IovaRange& area : areas) log.mark(area.first, area.size);
  log.announce();
}

}  // namespace causeway::port

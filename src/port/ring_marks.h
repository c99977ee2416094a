// What the device side of a ring writes into the ring itself, in the log of written pages.
#pragma once

#include "memory/dirty_log.h"
#include "virtio/ring.h"

namespace causeway::port {

/// After a publish, and after a change of event suppression. Of a packed ring used descriptors lie among the available
/// ones. Cost when all is marked: one load for every eight pages.
inline void mark_ring(const memory::DirtyLog& log, const virtio::RingConfig& ring) {
  const auto sizes = virtio::RingAreaSizes::of(ring.layout(), ring.size);
  memory::full_fence();  // see DirtyLog::mark
  if (ring.layout() == virtio::Layout::packed) log.mark(ring.descriptors, sizes.descriptors.bytes);
  log.mark(ring.used, sizes.used.bytes);
  log.announce();
}

}  // namespace causeway::port

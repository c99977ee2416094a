// What the device side of a ring writes into the ring itself, in the log of written pages.
#pragma once

#include "base/result.h"
#include "memory/dirty_log.h"
#include "memory/memory_map.h"
#include "virtio/ring.h"

#include <memory>
#include <span>
#include <vector>

namespace causeway::virtio {

/// Where the device side writes, by the addresses of a log: those of the memory that `map` leads to. Of a packed ring
/// used descriptors lie among the available ones. Errc::peer_violation: it is not memory that the device may write.
Result<std::vector<memory::IovaRange>> written_areas(const RingConfig& ring,
                                                     const std::shared_ptr<const memory::MemoryMap>& map);

/// After a publish, and after a change of event suppression. Cost when all is marked: one load for every eight pages.
inline void mark_ring(const memory::DirtyLog& log, std::span<const memory::IovaRange> areas) {
  memory::full_fence();  // see DirtyLog::mark
  for (const memory::IovaRange& area : areas) log.mark(area.first, area.size);
  log.announce();
}

}  // namespace causeway::virtio

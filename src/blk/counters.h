// Counters of one request queue: written by its worker alone, read by the control thread.
#pragma once

#include "base/counter.h"
#include "vdpa/device.h"

#include <vector>

namespace causeway::blk {

/// It outlives the running queue, so that counts go on over stop and rebind.
struct alignas(64) QueueCounters {
  Counter reads;
  Counter writes;
  Counter flushes;
  Counter discards;  ///< write-zeroes too
  Counter read_bytes;
  Counter written_bytes;
  Counter errors;      ///< requests answered with IOERR or UNSUPP
  Counter again;       ///< requests that were in flight when the queue started
  Counter throttled;   ///< times that the rate limit held a request back
  Counter calls;       ///< notifications sent to the driver
  Counter translated;  ///< buffers, behind an IOMMU

  std::vector<vdpa::Counter> report() const {
    return {{"reads", reads.value()},           {"writes", writes.value()},
            {"flushes", flushes.value()},       {"discards", discards.value()},
            {"read_bytes", read_bytes.value()}, {"written_bytes", written_bytes.value()},
            {"errors", errors.value()},         {"again", again.value()},
            {"throttled", throttled.value()},   {"calls", calls.value()}};
  }
};

}  // namespace causeway::blk

// Counters of one queue: written by its worker alone, read by the control thread.
#pragma once

#include "vdpa/device.h"

#include <atomic>
#include <cstdint>
#include <vector>

namespace causeway::net {

/// A counter with one writer.
class Counter {
 public:
  void add(std::uint64_t count) {
    value_.store(value_.load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
  }
  std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// What happened on a queue. It outlives the running queue, so that counts go on over stop and rebind.
struct alignas(64) QueueCounters {
  Counter packets;            ///< moved
  Counter bytes;              ///< moved, Ethernet header included
  Counter calls;              ///< notifications sent to the driver
  Counter dropped_no_buffer;  ///< the receiver had no buffer
  Counter dropped_too_long;   ///< the frame did not fit into what the receiver offered
  Counter dropped_bad_frame;  ///< shorter than an Ethernet header, longer than 64 KiB, or a header that contradicts it
  Counter dropped_filtered;   ///< not for this receiver, or to nobody
  Counter dropped_disabled;   ///< the queue, or the receiver, is disabled

  std::vector<vdpa::Counter> report() const {
    return {{"packets", packets.value()},
            {"bytes", bytes.value()},
            {"calls", calls.value()},
            {"dropped_no_buffer", dropped_no_buffer.value()},
            {"dropped_too_long", dropped_too_long.value()},
            {"dropped_bad_frame", dropped_bad_frame.value()},
            {"dropped_filtered", dropped_filtered.value()},
            {"dropped_disabled", dropped_disabled.value()}};
  }
};

}  // namespace causeway::net

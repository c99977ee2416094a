// The driver side of a packed virtqueue. Spec: virtio 1.3 section 2.8.
#pragma once

#include "base/result.h"
#include "memory/memory_map.h"
#include "virtio/driver_chain.h"
#include "virtio/packed_ring.h"
#include "virtio/ring.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace causeway::virtio {

/// As SplitDriverQueue, member by member. Invariants: (1) a buffer id belongs to exactly one of: the free ids, a chain
/// in flight; (2) nothing is read from a descriptor before its USED bit says that it is the device's answer; (3) `reap`
/// returns each token exactly once; (4) of the chains published at once, the first becomes available last.
/// Thread: one at a time.
class PackedDriverQueue {
 public:
  /// Starts on ring memory that is all zeros, or goes on where `config.start` says with nothing in flight.
  static Result<PackedDriverQueue> start(const RingConfig& config, const std::shared_ptr<const memory::MemoryMap>& map,
                                         std::optional<IndirectArea> indirect_area = std::nullopt);

  bool add(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable, std::uint64_t token);
  bool publish();
  std::optional<UsedChain> reap();

  bool arm();
  void disarm();

  std::uint16_t free_descriptors() const { return free_slots_; }
  std::uint16_t in_flight() const { return in_flight_; }
  bool is_broken() const { return broken_; }

 private:
  PackedDriverQueue(const RingConfig& config, RingAreas areas, std::shared_ptr<const memory::MemoryMap> map);
  void add_direct(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable, std::uint16_t id);
  void add_indirect(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable, std::uint16_t id);
  /// Writes a descriptor at the next place; its flags only when the device may not see them yet, or may see all.
  void put(const PackedDescriptor& descriptor);
  bool has_used();
  std::optional<UsedChain> break_down();
  UsedChain release(std::uint16_t id, std::uint32_t written);

  struct Sent {
    std::uint64_t token = 0;
    std::uint32_t writable = 0;  // bytes
    std::uint16_t slots = 0;     // ring entries the chain holds; 0: not in flight
    std::uint16_t next = 0;      // the id that is free, or was added, after this one
  };

  RingConfig config_;
  RingAreas areas_;
  std::shared_ptr<const memory::MemoryMap> map_;
  bool event_idx_;
  bool in_order_;
  std::optional<memory::GuestSpan> indirect_;
  memory::Iova indirect_iova_;
  std::uint32_t table_entries_ = 0;

  PackedPosition avail_;        // where the next descriptor goes
  PackedPosition used_;         // where the device's next answer comes
  PackedPosition first_avail_;  // of those written and not yet visible
  PackedTail first_tail_{0, 0, 0};
  PackedTail answer_{0, 0, 0};     // the device's, as last read
  std::uint16_t unpublished_ = 0;  // ring entries written since the last publish
  std::uint16_t free_slots_;
  std::uint16_t in_flight_ = 0;
  std::vector<Sent> sent_;       // by id
  std::uint16_t free_id_ = 0;    // ids in the order of their reuse: a list; with IN_ORDER simply round and round
  std::uint16_t oldest_id_ = 0;  // with IN_ORDER: the id added first of those in flight
  std::optional<std::uint16_t> batch_last_;  // with IN_ORDER: the id that ends the batch being reaped
  std::uint32_t batch_written_ = 0;
  bool broken_ = false;
};

}  // namespace causeway::virtio

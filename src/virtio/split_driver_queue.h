// The driver side of a split virtqueue: what a guest's driver does, for our own programs. Spec: virtio 1.3 section 2.7.
#pragma once

#include "base/result.h"
#include "memory/memory_map.h"
#include "virtio/driver_chain.h"
#include "virtio/ring.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace causeway::virtio {

/// Adds buffers, reaps used ones. The device is not trusted: an id that was never given to it is a fault.
/// PackedDriverQueue has the same members; DriverQueue holds one or the other.
///
/// Invariants: (1) a descriptor belongs to exactly one of: the free list, a chain in flight; (2) nothing is read back
/// from the descriptor table or the available ring; (3) `reap` returns each token exactly once.
/// Thread: one at a time.
class SplitDriverQueue {
 public:
  /// Starts on ring memory that is all zeros, or goes on where `config.start` says with nothing in flight.
  /// `indirect_area`: where indirect tables may lie; needs the feature.
  static Result<SplitDriverQueue> start(const RingConfig& config, const std::shared_ptr<const memory::MemoryMap>& map,
                                        std::optional<IndirectArea> indirect_area = std::nullopt);

  /// Adds one chain, `readable` before `writable`; false when there is no room now. Not visible before `publish`.
  bool add(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable, std::uint64_t token);
  /// Makes what was added visible; true when the device wants a kick.
  bool publish();
  /// The next used chain, in the order the device used them.
  std::optional<UsedChain> reap();

  /// Asks for calls, then looks again: true when there are used chains already.
  bool arm();
  void disarm();

  std::uint16_t free_descriptors() const { return free_count_; }
  /// Chains added and not reaped.
  std::uint16_t in_flight() const { return static_cast<std::uint16_t>(next_avail_ - next_used_); }
  /// True when the device returned an id it did not have; the queue then stands still.
  bool is_broken() const { return broken_; }

 private:
  SplitDriverQueue(const RingConfig& config, RingAreas areas, std::shared_ptr<const memory::MemoryMap> map);
  bool add_direct(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable, std::uint64_t token);
  bool add_indirect(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable,
                    std::uint64_t token);
  void put_available(std::uint16_t head, std::uint16_t descriptors, std::span<const DriverBuffer> writable,
                     std::uint64_t token);
  bool has_used();
  std::optional<UsedChain> reap_in_order();
  std::optional<UsedChain> break_down();
  void release(std::uint16_t head);

  static constexpr std::uint16_t kNotInFlight = 0;
  struct Sent {
    std::uint64_t token = 0;
    std::uint32_t writable = 0;                // bytes
    std::uint16_t descriptors = kNotInFlight;  // how many table entries the chain holds
  };

  RingConfig config_;
  RingAreas areas_;
  std::shared_ptr<const memory::MemoryMap> map_;
  std::uint16_t mask_;
  bool event_idx_;
  bool in_order_;
  std::optional<memory::GuestSpan> indirect_;
  memory::Iova indirect_iova_;
  std::uint32_t table_entries_ = 0;

  std::vector<std::uint16_t> next_;   // our copy of each descriptor's next field: free list and chains
  std::vector<Sent> sent_;            // by head
  std::vector<std::uint16_t> order_;  // with IN_ORDER: heads by place in the available ring
  std::uint16_t free_head_ = 0;
  std::uint16_t free_count_;
  std::uint16_t next_avail_;
  std::uint16_t published_avail_;
  std::uint16_t next_used_;
  std::uint16_t known_used_;
  std::optional<std::uint16_t> batch_last_;  // with IN_ORDER: the head that ends the batch being reaped
  std::uint32_t batch_written_ = 0;          // bytes the device says it wrote into that one
  bool broken_ = false;
};

}  // namespace causeway::virtio

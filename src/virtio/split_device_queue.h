// The device side of a split virtqueue. Spec: virtio 1.3 section 2.7.
#pragma once

#include "base/result.h"
#include "memory/memory_map.h"
#include "virtio/chain.h"
#include "virtio/ring.h"

#include <algorithm>
#include <cstdint>
#include <memory>

namespace causeway::virtio {

/// Takes descriptor chains, gives them back used. Owns the memory map that its ring lies in.
///
/// Invariants: (1) everything read from the ring is read once and checked before it is used; (2) our own positions are
/// private copies, never read back; (3) after a fault it touches the ring no more; (4) used entries become visible to
/// the driver only in `publish`, after everything written into their buffers. Thread: one at a time.
class SplitDeviceQueue {
 public:
  /// Longest chain that is accepted, whatever the ring's size: Linux puts more than a small ring's entries in an
  /// indirect table.
  static constexpr std::uint32_t kLeastChainLimit = 1024;

  /// Locates the ring and reads the used index. Errc::peer_violation: misaligned, outside memory, or a start position
  /// that contradicts the used ring.
  static Result<SplitDeviceQueue> start(const RingConfig& config, std::shared_ptr<const memory::MemoryMap> map);

  /// Goes on with another map of the same addresses; Errc::peer_violation when the ring is not in it.
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map);

  /// Chains that can be taken now. Cost: no access to the ring while some known ones are left.
  std::uint16_t available() {
    if (known_avail_ == next_avail_) refresh_available();
    return static_cast<std::uint16_t>(known_avail_ - next_avail_);
  }

  /// Looks at the ring again even when known chains are left; for users that need many.
  std::uint16_t available_now() {
    refresh_available();
    return static_cast<std::uint16_t>(known_avail_ - next_avail_);
  }

  /// Appends up to `limit` chains to `batch`, oldest first; returns how many. Fewer than available: the batch is full,
  /// or a fault ended it (the chains before it are good).
  std::uint16_t take(ChainBatch& batch, std::uint16_t limit);
  /// Puts the last `count` taken chains back; they must be the last taken, and not used.
  void untake(std::uint16_t count) { next_avail_ = static_cast<std::uint16_t>(next_avail_ - count); }

  /// Writes one used entry. `written` counts the bytes written from the start of the chain's writable part.
  void use(std::uint16_t head, std::uint32_t written) {
    const std::size_t slot = kRingEntries + 8u * (next_used_ & mask_);
    // The entry carries no order of its own: publish() stores the index after it with release.
    areas_.used.store<std::uint32_t>(slot, head, std::memory_order_relaxed);
    areas_.used.store<std::uint32_t>(slot + 4, written, std::memory_order_relaxed);
    ++next_used_;
  }
  /// Asks the cache for the used entry that the next `use` will write.
  void prefetch_used() const { areas_.used.prefetch_for_write(kRingEntries + 8u * (next_used_ & mask_)); }

  /// Makes all used entries visible; true when the driver wants a call.
  bool publish();

  /// Asks the driver for kicks, then looks again; true when there are chains already.
  bool arm();
  /// Tells the driver that kicks are not needed.
  void disarm();

  RingFault fault() const { return fault_; }
  /// A user that finds a chain unusable for its device type stops the ring with this.
  void set_fault(RingFault fault) { fault_ = fault; }

  /// Where another device must resume. All chains taken must have been used or put back.
  QueueState state() const { return {.avail_idx = next_avail_, .in_flight = {}}; }

 private:
  SplitDeviceQueue(const RingConfig& config, SplitAreas areas, std::shared_ptr<const memory::MemoryMap> map,
                   std::uint16_t used_idx);
  void refresh_available();
  bool take_chain(ChainBatch& batch, std::uint16_t head);
  bool walk(ChainBatch& batch, Chain& chain, const memory::GuestSpan& table, std::uint32_t entries, std::uint32_t index,
            bool in_indirect);
  bool walk_indirect(ChainBatch& batch, Chain& chain, const Descriptor& descriptor);
  bool add(ChainBatch& batch, Chain& chain, const Descriptor& descriptor);
  bool refuse(RingFault fault) {
    fault_ = fault;
    return false;
  }

  RingConfig config_;
  SplitAreas areas_;
  memory::Translator translator_;
  std::uint16_t mask_;
  bool event_idx_;
  bool indirect_;
  RingFault fault_ = RingFault::none;
  std::uint16_t next_avail_;   // free-running: the next entry of the available ring to be taken
  std::uint16_t known_avail_;  // the driver's available index as last read
  std::uint16_t next_used_;    // free-running: the next used entry to be written
  std::uint16_t published_used_;
  std::uint32_t chain_limit_;
  std::uint32_t budget_ = 0;  // descriptors the chain at hand may still have
};

}  // namespace causeway::virtio

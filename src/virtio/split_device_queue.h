// The device side of a split virtqueue. Spec: virtio 1.3 section 2.7.
#pragma once

#include "base/result.h"
#include "memory/memory_map.h"
#include "virtio/chain.h"
#include "virtio/chain_walker.h"
#include "virtio/inflight.h"
#include "virtio/ring.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace causeway::virtio {

/// Takes descriptor chains, gives them back used. Owns the memory map that its ring lies in. PackedDeviceQueue has the
/// same members, so that a user may be a template of either; DeviceQueue holds one or the other.
///
/// Invariants: (1) everything read from the ring is read once and checked before it is used; (2) our own positions are
/// private copies, never read back; (3) after a fault it touches the ring no more; (4) used entries become visible to
/// the driver only in `publish`, after everything written into their buffers; (5) with IN_ORDER the user uses chains in
/// the order in which it took them. Thread: one at a time.
class SplitDeviceQueue {
 public:
  /// Locates the ring and reads the used index. Chains that the start position names as in flight are taken first.
  /// Errc::peer_violation: misaligned, outside memory, or a start position that contradicts the used ring.
  static Result<SplitDeviceQueue> start(const RingConfig& config, std::shared_ptr<const memory::MemoryMap> map,
                                        Remember remember = Remember::nothing);

  /// Goes on with another map of the same addresses; Errc::peer_violation when the ring is not in it.
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map);

  /// Whether a chain can be taken now. Cost: no access to the ring while some known ones are left.
  bool has_available() { return known_avail_ != next_avail_ || look_again(); }

  /// Appends up to `limit` chains to `batch`, oldest first; returns how many. Fewer than available: the batch is full,
  /// or a fault ended it (the chains before it are good).
  std::uint16_t take(ChainBatch& batch, std::uint16_t limit);
  /// Puts chains back; they must be the last taken, and not used.
  void untake(std::span<const Chain> chains);

  /// Writes one used entry. `written` counts the bytes written from the start of the chain's writable part.
  void use(const Chain& chain, std::uint32_t written) {
    put_used(chain.id, written);
    ++next_used_;
  }
  /// The same, with the segments that the bytes went to: for rings that must know (virtio/logged_ring.h).
  void use(const Chain& chain, std::uint32_t written, std::span<const memory::GuestSpan> /*writable*/) {
    use(chain, written);
  }
  /// Uses chains that have no writable part, in the order given, which is that in which they were taken. Cost with
  /// IN_ORDER: one used entry for all.
  void use_unwritten(std::span<const Chain> chains);

  // With a record: `mark` what has been taken before anything is done with it; `unmark` says that it will be used with
  // the next publish. Without one, they do nothing.
  void mark(const Chain& chain) {
    if (record_) record_->mark(chain.id);
  }
  void unmark(const Chain& chain) {
    if (record_) record_->use(chain.id);
  }

  /// Makes all used entries visible; true when the driver wants a call.
  bool publish();

  /// Asks the driver for kicks, then looks again; true when there are chains already.
  bool arm();
  /// Tells the driver that kicks are not needed.
  void disarm();

  /// What `take` has found missing in a map that is translated, of the chain at which it stopped and of those behind
  /// it.
  std::vector<memory::Miss> take_misses() { return walker_.take_misses(); }

  RingFault fault() const { return fault_; }
  /// A user that finds a chain unusable for its device type stops the ring with this.
  void set_fault(RingFault fault) { fault_ = fault; }

  /// Where another device must resume. `outstanding`: the chains taken and neither used nor put back, in the order
  /// taken. Everything used must have been published.
  QueueState state(std::span<const Chain> outstanding = {}) const;

 private:
  SplitDeviceQueue(const RingConfig& config, RingAreas areas, std::shared_ptr<const memory::MemoryMap> map,
                   std::uint16_t used_idx);
  bool look_again();
  void refresh_available();
  std::uint16_t take_again(ChainBatch& batch, std::uint16_t limit);
  bool take_chain(ChainBatch& batch, std::uint16_t head, bool again);
  RingFault walk_from(ChainBatch& batch, Chain& chain, std::uint16_t head);
  void look_ahead(ChainBatch& batch, std::span<const std::uint16_t> heads);
  RingFault walk(ChainBatch& batch, Chain& chain, Descriptor descriptor);
  void put_used(std::uint32_t id, std::uint32_t written) {
    const std::size_t slot = kRingEntries + 8u * (next_used_ & mask_);
    // The entry carries no order of its own: publish() stores the index after it with release.
    areas_.used.put(slot, UsedElement{.id = id, .length = written});
  }

  RingConfig config_;
  RingAreas areas_;
  ChainWalker walker_;
  std::uint16_t mask_;
  bool event_idx_;
  bool in_order_;
  RingFault fault_ = RingFault::none;
  std::uint16_t next_avail_;   // free-running: the next entry of the available ring to be taken
  std::uint16_t known_avail_;  // the driver's available index as last read
  std::uint16_t next_used_;    // free-running: the next used entry to be written
  std::uint16_t published_used_;
  std::vector<std::uint16_t> again_;  // heads that were in flight at the start
  std::size_t again_taken_ = 0;       // how many of them have been taken
  std::unique_ptr<SplitInflight> record_;
};

}  // namespace causeway::virtio

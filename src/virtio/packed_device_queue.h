// The device side of a packed virtqueue. Spec: virtio 1.3 section 2.8.
#pragma once

#include "base/result.h"
#include "memory/memory_map.h"
#include "virtio/chain.h"
#include "virtio/chain_walker.h"
#include "virtio/inflight.h"
#include "virtio/packed_ring.h"
#include "virtio/ring.h"

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

namespace causeway::virtio {

/// As SplitDeviceQueue, member by member, with the same invariants; moreover: (6) a used descriptor is visible only
/// once all before it are, since the first of those published at once gets its flags last; (7) nothing is written into
/// the ring before the record says what, so that a crash in the middle of it can be put right.
class PackedDeviceQueue {
 public:
  /// Errc::peer_violation: misaligned, outside memory, or a start position outside the ring.
  static Result<PackedDeviceQueue> start(const RingConfig& config, std::shared_ptr<const memory::MemoryMap> map,
                                         Remember remember = Remember::nothing);
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map);

  bool has_available() const {
    return fault_ == RingFault::none && (is_available(load_tail().flags()) || again_taken_ != again_.size());
  }
  std::uint16_t take(ChainBatch& batch, std::uint16_t limit);
  void untake(std::span<const Chain> chains);

  void use(const Chain& chain, std::uint32_t written) {
    put_used(chain.id, written);
    advance_used(chain.slots);
  }
  void use(const Chain& chain, std::uint32_t written, std::span<const memory::GuestSpan> /*writable*/) {
    use(chain, written);
  }
  void use_unwritten(std::span<const Chain> chains);
  void mark(const Chain& chain) {
    if (record_ && remembers_) record_->mark(remembered_.at(chain.id));
  }
  void unmark(const Chain& chain) {
    if (record_ && remembers_) record_->use(chain.id);
  }
  bool publish();

  bool arm();
  void disarm();

  std::vector<memory::Miss> take_misses() { return walker_.take_misses(); }

  RingFault fault() const { return fault_; }
  void set_fault(RingFault fault) { fault_ = fault; }

  /// With outstanding chains only when it remembers them.
  QueueState state(std::span<const Chain> outstanding = {}) const;

 private:
  PackedDeviceQueue(const RingConfig& config, RingAreas areas, std::shared_ptr<const memory::MemoryMap> map,
                    Remember remember);
  /// Of the next descriptor. Acquire pairs with the driver's release of a chain's first flags: all that the chain is
  /// made of is then visible.
  PackedTail load_tail() const {
    return PackedTail::load(areas_.descriptors, avail_.offset(), std::memory_order_acquire);
  }
  std::uint64_t load_address() const {
    return areas_.descriptors.load<std::uint64_t>(avail_.offset(), std::memory_order_relaxed);
  }
  bool is_available(std::uint16_t flags) const { return (flags & kPackedBits) == avail_.available_bits(); }
  bool take_chain(ChainBatch& batch, PackedTail first);
  RingFault walk(ChainBatch& batch, Chain& chain, PackedTail tail);
  RingFault walk_again(ChainBatch& batch, Chain& chain, const InFlight& chain_again);
  RingFault add(ChainBatch& batch, Chain& chain, std::uint64_t address, std::uint32_t length, std::uint16_t flags);
  std::uint16_t take_again(ChainBatch& batch, std::uint16_t limit);
  void look_ahead(ChainBatch& batch, std::uint32_t limit);
  void remember(const Chain& chain, PackedPosition at);

  void put_used(std::uint16_t id, std::uint32_t written) {
    batch_.push_back({.written = written, .id = id, .position = used_.encoded()});
  }
  void advance_used(std::uint16_t slots) {
    used_.advance(slots);
    unpublished_ = static_cast<std::uint16_t>(unpublished_ + slots);
  }

  RingConfig config_;
  RingAreas areas_;
  ChainWalker walker_;
  bool event_idx_;
  bool in_order_;
  RingFault fault_ = RingFault::none;
  PackedPosition avail_;           // the next descriptor to be taken
  PackedPosition used_;            // where the next used descriptor goes
  std::vector<PackedUsed> batch_;  // to be published; there is room for as many as the ring has entries
  std::uint16_t unpublished_ = 0;  // ring entries passed since the last publish
  std::uint32_t room_ = 0;         // ring entries that the take at hand may still pass
  std::vector<InFlight> again_;    // chains that were in flight at the start
  std::size_t again_taken_ = 0;
  bool remembers_;
  std::unordered_map<std::uint16_t, InFlight> remembered_;  // by buffer id
  std::unique_ptr<PackedInflight> record_;                  // without remembering: of the used position alone
};

}  // namespace causeway::virtio

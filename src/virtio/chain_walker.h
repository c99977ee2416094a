// From descriptors to segments: the part of taking a chain that both layouts share.
#pragma once

#include "memory/memory_map.h"
#include "virtio/chain.h"
#include "virtio/ring.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace causeway::virtio {

/// Translates and checks what descriptors say. Owns the map; thread: its queue's.
///
/// Invariant: a chain has at most `chain_limit()` descriptors and twice as many segments, whatever the driver wrote.
class ChainWalker {
 public:
  /// Longest chain that is accepted, whatever the ring's size: Linux puts more than a small ring's entries in an
  /// indirect table.
  static constexpr std::uint32_t kLeastChainLimit = 1024;
  /// A batch takes no further chain once it holds this many segments: a bound on our memory, whatever a guest sends.
  static constexpr std::size_t kSegmentsPerBatch = 8192;

  ChainWalker(const RingConfig& config, std::shared_ptr<const memory::MemoryMap> map)
      : translator_(std::move(map)),
        layout_(config.layout()),
        indirect_(config.features.has(Feature::indirect_desc)),
        chain_limit_(std::max<std::uint32_t>(config.size.entries(), kLeastChainLimit)) {}

  void replace_map(std::shared_ptr<const memory::MemoryMap> map) { translator_ = memory::Translator(std::move(map)); }
  std::uint32_t chain_limit() const { return chain_limit_; }

  /// Appends one descriptor's buffer to `chain`. Cost, when it lies in the region of the one before: two comparisons.
  RingFault add(ChainBatch& batch, Chain& chain, std::uint64_t address, std::uint32_t length, std::uint16_t flags) {
    const std::size_t before = batch.segment_count();
    const bool writes = (flags & kDescWrite) != 0;
    if (const auto segment = translator_.translate_at_once(address, length)) [[likely]] {
      if (segment->size() != 0) batch.append(*segment);
    } else if (const RingFault fault = append_pieces(batch, address, length, writes); fault != RingFault::none) {
      // Also what a chain has that lacks something.
      return is_too_long(batch, chain) ? RingFault::chain_too_long : fault;
    }
    const auto pieces = static_cast<std::uint32_t>(batch.segment_count() - before);
    if (is_too_long(batch, chain)) [[unlikely]]
      return RingFault::chain_too_long;
    if (writes) {
      chain.writable += pieces;
      chain.writable_bytes += length;
      return RingFault::none;
    }
    if (chain.writable != 0) [[unlikely]]
      return RingFault::readable_after_writable;
    chain.readable += pieces;
    chain.readable_bytes += length;
    return RingFault::none;
  }

  /// The same for the only descriptor of an empty chain; what differs from `add` is the cost.
  RingFault add_only(ChainBatch& batch, Chain& chain, std::uint64_t address, std::uint32_t length,
                     std::uint16_t flags) {
    const auto segment = translator_.translate_at_once(address, length);
    if (!segment || length == 0) [[unlikely]]
      return add(batch, chain, address, length, flags);
    batch.append(*segment);
    const bool writes = (flags & kDescWrite) != 0;
    chain.readable = writes ? 0 : 1;
    chain.writable = writes ? 1 : 0;
    chain.readable_bytes = writes ? 0 : length;
    chain.writable_bytes = writes ? length : 0;
    return RingFault::none;
  }

  /// Appends the buffers that an indirect table names, in the format of the ring's layout (2.7.5.3, 2.8.8).
  RingFault add_indirect(ChainBatch& batch, Chain& chain, std::uint64_t address, std::uint32_t length);

  /// What chains have lacked since the last call: of RingFault::translation_missed it is the cause.
  std::vector<memory::Miss> take_misses() { return std::exchange(misses_, {}); }

 private:
  /// A descriptor over many small regions has many pieces; the chain as a whole stays bounded.
  bool is_too_long(const ChainBatch& batch, const Chain& chain) const {
    return batch.segment_count() - chain.first > std::size_t{2} * chain_limit_;
  }
  RingFault append_pieces(ChainBatch& batch, std::uint64_t address, std::uint32_t length, bool writes);
  RingFault miss(std::uint64_t address, std::uint32_t length, memory::Access access);
  RingFault walk_split_table(ChainBatch& batch, Chain& chain, const memory::GuestSpan& table, std::uint32_t entries);
  RingFault walk_packed_table(ChainBatch& batch, Chain& chain, const memory::GuestSpan& table, std::uint32_t entries);

  memory::Translator translator_;
  Layout layout_;
  bool indirect_;
  std::uint32_t chain_limit_;
  std::vector<memory::Miss> misses_;
};

}  // namespace causeway::virtio

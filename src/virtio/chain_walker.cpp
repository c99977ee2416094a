#include "virtio/chain_walker.h"

namespace causeway::virtio {

using memory::GuestSpan;

RingFault ChainWalker::append_pieces(ChainBatch& batch, std::uint64_t address, std::uint32_t length, bool writes) {
  const auto access = writes ? memory::Access::write : memory::Access::read;
  const bool is_translated = translator_.map()->is_translated();
  std::uint64_t at = address;
  const bool is_known = translator_.translate(address, length, access, [&](GuestSpan piece) {
    if (piece.size() == 0) return;
    batch.append(piece);
    if (is_translated) batch.note_address(memory::Iova(at));
    at += piece.size();
  });
  return is_known ? RingFault::none : miss(address, length, access);
}

RingFault ChainWalker::miss(std::uint64_t address, std::uint32_t length, memory::Access access) {
  const memory::MemoryMap& map = *translator_.map();
  if (!map.is_translated() || address + (length - 1) < address) return RingFault::outside_memory;
  const bool is_allowed = map.list_missing(memory::Iova(address), length, access, misses_);
  return is_allowed ? RingFault::translation_missed : RingFault::access_denied;
}

RingFault ChainWalker::add_indirect(ChainBatch& batch, Chain& chain, std::uint64_t address, std::uint32_t length) {
  if (!indirect_) return RingFault::indirect_not_negotiated;
  if (length == 0 || length % sizeof(Descriptor) != 0) return RingFault::indirect_bad_length;
  const std::uint32_t entries = length / static_cast<std::uint32_t>(sizeof(Descriptor));
  GuestSpan table;
  unsigned pieces = 0;
  const bool inside = translator_.translate(address, length, memory::Access::read, [&](GuestSpan piece) {
    table = piece;
    ++pieces;
  });
  if (!inside) return miss(address, length, memory::Access::read);
  if (pieces > 1) {
    // A table that straddles two regions is legal when they are one run of host memory.
    const auto whole = translator_.map()->translate(memory::Iova(address), length);
    if (!whole) return RingFault::outside_memory;
    table = *whole;
  }
  return layout_ == Layout::split ? walk_split_table(batch, chain, table, entries)
                                  : walk_packed_table(batch, chain, table, entries);
}

RingFault ChainWalker::walk_split_table(ChainBatch& batch, Chain& chain, const GuestSpan& table,
                                        std::uint32_t entries) {
  RingFault outcome = RingFault::none;
  std::uint32_t index = 0;
  for (std::uint32_t budget = chain_limit_; budget != 0; --budget) {
    const Descriptor descriptor = Descriptor::fetch(table, index);
    if ((descriptor.flags & kDescIndirect) != 0) return RingFault::indirect_nested;
    const RingFault fault = add(batch, chain, descriptor.address, descriptor.length, descriptor.flags);
    if (fault != RingFault::none) outcome = fault;
    if (outcome != RingFault::none && outcome != RingFault::translation_missed) return outcome;
    if ((descriptor.flags & kDescNext) == 0) return outcome;
    if (descriptor.next >= entries) return RingFault::next_out_of_range;
    index = descriptor.next;
  }
  return RingFault::chain_too_long;
}

RingFault ChainWalker::walk_packed_table(ChainBatch& batch, Chain& chain, const GuestSpan& table,
                                         std::uint32_t entries) {
  // All entries of the table are one chain in their order; NEXT means nothing here (2.8.8).
  if (entries > chain_limit_) return RingFault::indirect_too_long;
  RingFault outcome = RingFault::none;
  for (std::uint32_t i = 0; i < entries; ++i) {
    const auto descriptor = table.fetch<PackedDescriptor>(std::size_t{16} * i);
    if ((descriptor.flags & kDescIndirect) != 0) return RingFault::indirect_nested;
    const RingFault fault = add(batch, chain, descriptor.address, descriptor.length, descriptor.flags);
    if (fault != RingFault::none) outcome = fault;
    if (outcome != RingFault::none && outcome != RingFault::translation_missed) return outcome;
  }
  return outcome;
}

}  // namespace causeway::virtio

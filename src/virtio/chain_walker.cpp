#include "virtio/chain_walker.h"

namespace causeway::virtio {

using memory::GuestSpan;

RingFault ChainWalker::add_indirect(ChainBatch& batch, Chain& chain, std::uint64_t address, std::uint32_t length) {
  if (!indirect_) return RingFault::indirect_not_negotiated;
  if (length == 0 || length % sizeof(Descriptor) != 0) return RingFault::indirect_bad_length;
  const std::uint32_t entries = length / static_cast<std::uint32_t>(sizeof(Descriptor));
  GuestSpan table;
  unsigned pieces = 0;
  const bool inside = translator_.translate(address, length, [&](GuestSpan piece) {
    table = piece;
    ++pieces;
  });
  if (!inside) return RingFault::outside_memory;
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
  std::uint32_t index = 0;
  for (std::uint32_t budget = chain_limit_; budget != 0; --budget) {
    const Descriptor descriptor = Descriptor::fetch(table, index);
    if ((descriptor.flags & kDescIndirect) != 0) return RingFault::indirect_nested;
    const RingFault fault = add(batch, chain, descriptor.address, descriptor.length, descriptor.flags);
    if (fault != RingFault::none) return fault;
    if ((descriptor.flags & kDescNext) == 0) return RingFault::none;
    if (descriptor.next >= entries) return RingFault::next_out_of_range;
    index = descriptor.next;
  }
  return RingFault::chain_too_long;
}

RingFault ChainWalker::walk_packed_table(ChainBatch& batch, Chain& chain, const GuestSpan& table,
                                         std::uint32_t entries) {
  // All entries of the table are one chain in their order; NEXT means nothing here (2.8.8).
  if (entries > chain_limit_) return RingFault::indirect_too_long;
  for (std::uint32_t i = 0; i < entries; ++i) {
    const auto descriptor = table.fetch<PackedDescriptor>(std::size_t{16} * i);
    if ((descriptor.flags & kDescIndirect) != 0) return RingFault::indirect_nested;
    const RingFault fault = add(batch, chain, descriptor.address, descriptor.length, descriptor.flags);
    if (fault != RingFault::none) return fault;
  }
  return RingFault::none;
}

}  // namespace causeway::virtio

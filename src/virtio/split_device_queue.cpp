#include "virtio/split_device_queue.h"

#include <fmt/format.h>

namespace causeway::virtio {

using memory::GuestSpan;

namespace {

/// A batch takes no further chain once it holds this many segments: a bound on our memory, whatever a guest sends.
constexpr std::size_t kSegmentsPerBatch = 8192;

}  // namespace

SplitDeviceQueue::SplitDeviceQueue(const RingConfig& config, SplitAreas areas,
                                   std::shared_ptr<const memory::MemoryMap> map, std::uint16_t used_idx)
    : config_(config),
      areas_(areas),
      translator_(std::move(map)),
      mask_(static_cast<std::uint16_t>(config.size.entries() - 1)),
      event_idx_(config.features.has(Feature::event_idx)),
      indirect_(config.features.has(Feature::indirect_desc)),
      next_avail_(config.start.avail_idx),
      known_avail_(config.start.avail_idx),
      next_used_(used_idx),
      published_used_(used_idx),
      chain_limit_(std::max<std::uint32_t>(config.size.entries(), kLeastChainLimit)) {}

Result<SplitDeviceQueue> SplitDeviceQueue::start(const RingConfig& config,
                                                 std::shared_ptr<const memory::MemoryMap> map) {
  CW_TRY(const auto areas, SplitAreas::locate(config, *map));
  // Only here is our own index read back from the ring: its last user has written it, and the driver relies on it.
  const auto used_idx = areas.used.load<std::uint16_t>(kRingIndex, std::memory_order_acquire);
  const auto unused = static_cast<std::uint16_t>(config.start.avail_idx - used_idx);
  if (unused > config.size.entries()) {
    return fail(Errc::peer_violation,
                fmt::format("ring position {} does not go with the used index {} of a ring of {} entries",
                            config.start.avail_idx, used_idx, config.size.entries()));
  }
  return SplitDeviceQueue(config, areas, std::move(map), used_idx);
}

Result<void> SplitDeviceQueue::replace_map(std::shared_ptr<const memory::MemoryMap> map) {
  CW_TRY(areas_, SplitAreas::locate(config_, *map));
  translator_ = memory::Translator(std::move(map));
  return {};
}

void SplitDeviceQueue::refresh_available() {
  if (fault_ != RingFault::none) {
    known_avail_ = next_avail_;
    return;
  }
  // Acquire pairs with the driver's release of the index: the entries and descriptors before it are then visible.
  const auto index = areas_.available.load<std::uint16_t>(kRingIndex, std::memory_order_acquire);
  if (static_cast<std::uint16_t>(index - next_avail_) > config_.size.entries()) {
    known_avail_ = next_avail_;
    fault_ = RingFault::avail_index_jumped;
    return;
  }
  known_avail_ = index;
}

std::uint16_t SplitDeviceQueue::take(ChainBatch& batch, std::uint16_t limit) {
  std::uint16_t count = std::min(available(), limit);
  count = static_cast<std::uint16_t>(std::min<std::size_t>(count, ChainBatch::kMaxChains - batch.size()));
  // First the heads, so that their descriptors are on the way while the first chain is walked.
  std::array<std::uint16_t, ChainBatch::kMaxChains> heads;
  for (std::uint16_t i = 0; i < count; ++i) {
    const std::size_t slot = static_cast<std::size_t>(next_avail_ + i) & mask_;
    heads[i] = areas_.available.load<std::uint16_t>(kRingEntries + 2 * slot, std::memory_order_relaxed);
    if (heads[i] > mask_) {
      fault_ = RingFault::head_out_of_range;
      count = i;
      break;
    }
    areas_.descriptors.prefetch(16u * heads[i]);
  }
  for (std::uint16_t i = 0; i < count; ++i) {
    if (batch.segments_.size() >= kSegmentsPerBatch && batch.count_ != 0) return i;
    if (!take_chain(batch, heads[i])) return i;
    ++next_avail_;
  }
  return count;
}

bool SplitDeviceQueue::take_chain(ChainBatch& batch, std::uint16_t head) {
  Chain& chain = batch.chains_[batch.count_];
  chain = Chain{.head = head, .first = static_cast<std::uint32_t>(batch.segments_.size())};
  budget_ = chain_limit_;
  if (!walk(batch, chain, areas_.descriptors, config_.size.entries(), head, false)) [[unlikely]] {
    batch.segments_.resize(chain.first);
    return false;
  }
  ++batch.count_;
  return true;
}

bool SplitDeviceQueue::walk(ChainBatch& batch, Chain& chain, const GuestSpan& table, std::uint32_t entries,
                            std::uint32_t index, bool in_indirect) {
  for (;;) {
    if (budget_-- == 0) return refuse(RingFault::chain_too_long);
    const Descriptor descriptor = Descriptor::fetch(table, index);
    if ((descriptor.flags & kDescIndirect) != 0) [[unlikely]] {
      if (in_indirect || (descriptor.flags & kDescNext) != 0) return refuse(RingFault::indirect_nested);
      return walk_indirect(batch, chain, descriptor);
    }
    if (!add(batch, chain, descriptor)) return false;
    if ((descriptor.flags & kDescNext) == 0) return true;
    if (descriptor.next >= entries) return refuse(RingFault::next_out_of_range);
    index = descriptor.next;
  }
}

bool SplitDeviceQueue::walk_indirect(ChainBatch& batch, Chain& chain, const Descriptor& descriptor) {
  if (!indirect_) return refuse(RingFault::indirect_not_negotiated);
  if (descriptor.length == 0 || descriptor.length % sizeof(Descriptor) != 0) {
    return refuse(RingFault::indirect_bad_length);
  }
  const std::uint32_t entries = descriptor.length / static_cast<std::uint32_t>(sizeof(Descriptor));
  GuestSpan table;
  unsigned pieces = 0;
  const bool inside = translator_.translate(descriptor.address, descriptor.length, [&](GuestSpan piece) {
    table = piece;
    ++pieces;
  });
  if (!inside) return refuse(RingFault::outside_memory);
  if (pieces > 1) {
    // A table that straddles two regions is legal when they are one run of host memory.
    const auto whole = translator_.map()->translate(memory::Iova(descriptor.address), descriptor.length);
    if (!whole) return refuse(RingFault::outside_memory);
    table = *whole;
  }
  return walk(batch, chain, table, entries, 0, true);
}

bool SplitDeviceQueue::add(ChainBatch& batch, Chain& chain, const Descriptor& descriptor) {
  std::uint32_t pieces = 0;
  if (!translator_.translate(descriptor.address, descriptor.length, [&](GuestSpan piece) {
        if (piece.size() == 0) return;
        batch.segments_.push_back(piece);
        ++pieces;
      })) {
    return refuse(RingFault::outside_memory);
  }
  // A descriptor over many small regions has many pieces; the chain as a whole stays bounded.
  if (batch.segments_.size() - chain.first > std::size_t{2} * chain_limit_) return refuse(RingFault::chain_too_long);
  if ((descriptor.flags & kDescWrite) != 0) {
    chain.writable += pieces;
    chain.writable_bytes += descriptor.length;
    return true;
  }
  if (chain.writable != 0) return refuse(RingFault::readable_after_writable);
  chain.readable += pieces;
  chain.readable_bytes += descriptor.length;
  return true;
}

bool SplitDeviceQueue::publish() {
  if (next_used_ == published_used_) return false;
  // Release: the used entries and all that was written into buffers come before the index (driver's acquire load of
  // it).
  areas_.used.store<std::uint16_t>(kRingIndex, next_used_, std::memory_order_release);
  const std::uint16_t old = published_used_;
  published_used_ = next_used_;
  // Pairs with the driver's fence between its store of used_event (or flags) and its look at the used index: without
  // the two, each could miss the other's store, and the driver would sleep on a ring with used entries.
  memory::full_fence();
  if (event_idx_) {
    const auto event =
        areas_.available.load<std::uint16_t>(kRingEntries + 2u * config_.size.entries(), std::memory_order_relaxed);
    return passes_event(event, next_used_, old);
  }
  return (areas_.available.load<std::uint16_t>(kRingFlags, std::memory_order_relaxed) & kAvailNoInterrupt) == 0;
}

bool SplitDeviceQueue::arm() {
  if (fault_ != RingFault::none) return false;
  if (event_idx_) {
    areas_.used.store<std::uint16_t>(kRingEntries + 8u * config_.size.entries(), next_avail_,
                                     std::memory_order_relaxed);
  } else {
    areas_.used.store<std::uint16_t>(kRingFlags, 0, std::memory_order_relaxed);
  }
  // Pairs with the driver's fence between its store of the available index and its look at avail_event (or flags).
  memory::full_fence();
  refresh_available();
  return known_avail_ != next_avail_;
}

void SplitDeviceQueue::disarm() {
  // With EVENT_IDX an old avail_event costs one kick in 65536 entries; moving it would cost a store in every pass.
  if (event_idx_ || fault_ != RingFault::none) return;
  areas_.used.store<std::uint16_t>(kRingFlags, kUsedNoNotify, std::memory_order_relaxed);
}

}  // namespace causeway::virtio

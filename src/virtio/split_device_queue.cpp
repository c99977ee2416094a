#include "virtio/split_device_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace causeway::virtio {

SplitDeviceQueue::SplitDeviceQueue(const RingConfig& config, RingAreas areas,
                                   std::shared_ptr<const memory::MemoryMap> map, std::uint16_t used_idx)
    : config_(config),
      areas_(std::move(areas)),
      walker_(config, std::move(map)),
      mask_(static_cast<std::uint16_t>(config.size.entries() - 1)),
      event_idx_(config.features.has(Feature::event_idx)),
      in_order_(config.features.has(Feature::in_order)),
      next_avail_(config.start.avail),
      known_avail_(config.start.avail),
      next_used_(used_idx),
      published_used_(used_idx) {
  for (const InFlight& chain : config.start.in_flight) again_.push_back(chain.id);
}

Result<SplitDeviceQueue> SplitDeviceQueue::start(const RingConfig& config, std::shared_ptr<const memory::MemoryMap> map,
                                                 Remember remember) {
  CW_TRY(const auto areas, RingAreas::locate(config, *map));
  // Only here is our own index read back from the ring: its last user has written it, and the driver relies on it.
  const auto used_idx = areas.used.load<std::uint16_t>(kRingIndex, std::memory_order_acquire);
  const auto unused = static_cast<std::uint16_t>(config.start.avail - used_idx);
  if (unused > config.size.entries()) {
    return fail(Errc::peer_violation,
                fmt::format("ring position {} does not go with the used index {} of a ring of {} entries",
                            config.start.avail, used_idx, config.size.entries()));
  }
  const auto& in_flight = config.start.in_flight;
  if (!in_flight.empty() && in_flight.size() != unused) {
    return fail(Errc::peer_violation,
                fmt::format("{} chains in flight, where the ring's indices tell of {}", in_flight.size(), unused));
  }
  for (const InFlight& chain : in_flight) {
    if (chain.id < config.size.entries()) continue;
    return fail(Errc::peer_violation,
                fmt::format("chain {} is in flight in a ring of {} entries", chain.id, config.size.entries()));
  }
  SplitDeviceQueue queue(config, areas, std::move(map), used_idx);
  // A user that completes in order needs none: the ring's used index tells it all.
  if (config.record && remember == Remember::in_flight) {
    queue.record_ = std::make_unique<SplitInflight>(*config.record, config, used_idx);
  }
  // The ring itself says all there is to say; what somebody has recorded before would soon be wrong.
  if (config.record && remember == Remember::nothing) config.record->clear();
  return queue;
}

Result<void> SplitDeviceQueue::replace_map(std::shared_ptr<const memory::MemoryMap> map) {
  // Behind an IOMMU it is for the ring's user to stop before its own addresses become others.
  if (!map->is_translated()) {
    CW_TRY(areas_, RingAreas::locate(config_, *map));
  }
  walker_.replace_map(std::move(map));
  return {};
}

bool SplitDeviceQueue::look_again() {
  refresh_available();
  return known_avail_ != next_avail_ || again_taken_ != again_.size();
}

void SplitDeviceQueue::refresh_available() {
  if (fault_ != RingFault::none) {
    known_avail_ = next_avail_;
    return;
  }
  // Acquire pairs with the driver's release of the index: the entries and descriptors before it are then visible.
  const auto index = areas_.available.load<std::uint16_t>(kRingIndex, std::memory_order_acquire);
  const std::uint32_t fresh = static_cast<std::uint16_t>(index - next_avail_);
  // What the driver has not got back it cannot make available again.
  const std::uint32_t held = static_cast<std::uint16_t>(next_avail_ - published_used_);
  if (fresh + held > config_.size.entries()) {
    known_avail_ = next_avail_;
    fault_ = RingFault::avail_index_jumped;
    return;
  }
  known_avail_ = index;
}

inline RingFault SplitDeviceQueue::walk_from(ChainBatch& batch, Chain& chain, std::uint16_t head) {
  const Descriptor first = Descriptor::fetch(areas_.descriptors, head);
  return (first.flags & (kDescNext | kDescIndirect)) == 0
             ? walker_.add_only(batch, chain, first.address, first.length, first.flags)
             : walk(batch, chain, first);
}

inline bool SplitDeviceQueue::take_chain(ChainBatch& batch, std::uint16_t head, bool again) {
  Chain& chain = batch.begin();
  chain.again = again ? 1 : 0;
  chain.id = head;
  const RingFault fault = walk_from(batch, chain, head);
  if (fault != RingFault::none) [[unlikely]] {
    batch.abandon(chain);
    if (fault != RingFault::translation_missed) fault_ = fault;
    return false;
  }
  batch.commit();
  return true;
}

std::uint16_t SplitDeviceQueue::take(ChainBatch& batch, std::uint16_t limit) {
  if (again_taken_ != again_.size()) [[unlikely]]
    return take_again(batch, limit);
  if (known_avail_ == next_avail_) refresh_available();
  auto count = std::min(static_cast<std::uint16_t>(known_avail_ - next_avail_), limit);
  count = static_cast<std::uint16_t>(std::min<std::size_t>(count, ChainBatch::kMaxChains - batch.size()));
  // First the heads, so that their descriptors are on the way while the first chain is walked.
  std::array<std::uint16_t, ChainBatch::kMaxChains> heads;
  RingFault behind = RingFault::none;  // these chains, of which one may have to wait
  for (std::uint16_t i = 0; i < count; ++i) {
    const std::size_t slot = static_cast<std::size_t>(next_avail_ + i) & mask_;
    heads[i] = areas_.available.load<std::uint16_t>(kRingEntries + 2 * slot, std::memory_order_relaxed);
    if (heads[i] > mask_) [[unlikely]] {
      behind = RingFault::head_out_of_range;
      count = i;
      break;
    }
    areas_.descriptors.prefetch(16u * heads[i]);
  }
  for (std::uint16_t i = 0; i < count; ++i) {
    if (batch.segment_count() >= ChainWalker::kSegmentsPerBatch && batch.size() != 0) [[unlikely]]
      return i;
    if (!take_chain(batch, heads[i], false)) [[unlikely]] {
      if (fault_ == RingFault::none) look_ahead(batch, std::span(heads).first(count).subspan(i + 1));
      known_avail_ = next_avail_;  // the next look asks also for what comes while this one waits
      return i;
    }
    ++next_avail_;
  }
  if (behind != RingFault::none) [[unlikely]]
    fault_ = behind;
  return count;
}

/// What these chains lack is asked for together with what the one before them lacks.
void SplitDeviceQueue::look_ahead(ChainBatch& batch, std::span<const std::uint16_t> heads) {
  for (const std::uint16_t head : heads) {
    Chain& chain = batch.begin();
    walk_from(batch, chain, head);  // what else is wrong is for the look that takes it
    batch.abandon(chain);
  }
}

std::uint16_t SplitDeviceQueue::take_again(ChainBatch& batch, std::uint16_t limit) {
  std::uint16_t count = 0;
  while (count < limit && !batch.is_full() && fault_ == RingFault::none && again_taken_ != again_.size()) {
    if (!take_chain(batch, again_[again_taken_], true)) break;
    ++again_taken_;
    ++count;
  }
  return count;
}

RingFault SplitDeviceQueue::walk(ChainBatch& batch, Chain& chain, Descriptor descriptor) {
  RingFault outcome = RingFault::none;
  for (std::uint32_t budget = config_.size.entries(); budget != 0; --budget) {
    if ((descriptor.flags & kDescIndirect) != 0) {
      if ((descriptor.flags & kDescNext) != 0) return RingFault::indirect_nested;
      const RingFault fault = walker_.add_indirect(batch, chain, descriptor.address, descriptor.length);
      return fault != RingFault::none ? fault : outcome;
    }
    const RingFault fault = walker_.add(batch, chain, descriptor.address, descriptor.length, descriptor.flags);
    if (fault != RingFault::none) outcome = fault;
    if (outcome != RingFault::none && outcome != RingFault::translation_missed) return outcome;
    if ((descriptor.flags & kDescNext) == 0) return outcome;
    if (descriptor.next > mask_) return RingFault::next_out_of_range;
    descriptor = Descriptor::fetch(areas_.descriptors, descriptor.next);
  }
  return RingFault::chain_too_long;
}

void SplitDeviceQueue::untake(std::span<const Chain> chains) {
  std::uint16_t fresh = 0;
  for (const Chain& chain : chains) {
    if (chain.again != 0) continue;
    ++fresh;
    if (record_) [[unlikely]]
      record_->unmark(chain.id);
  }
  next_avail_ = static_cast<std::uint16_t>(next_avail_ - fresh);
  again_taken_ -= chains.size() - fresh;
}

void SplitDeviceQueue::use_unwritten(std::span<const Chain> chains) {
  if (!in_order_) {
    for (const Chain& chain : chains) use(chain, 0);
    return;
  }
  if (chains.empty()) return;
  // One entry, at the place of the first, names the last (2.7.9).
  put_used(chains.back().id, 0);
  next_used_ = static_cast<std::uint16_t>(next_used_ + chains.size());
}

bool SplitDeviceQueue::publish() {
  if (next_used_ == published_used_) return false;
  if (record_) record_->before_publish();
  // Release: the used entries and all that was written into buffers come before the index (driver's acquire load of
  // it).
  areas_.used.store<std::uint16_t>(kRingIndex, next_used_, std::memory_order_release);
  if (record_) record_->after_publish(next_used_);
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
  return look_again();
}

void SplitDeviceQueue::disarm() {
  // With EVENT_IDX an old avail_event costs one kick in 65536 entries; moving it would cost a store in every pass.
  if (event_idx_ || fault_ != RingFault::none) return;
  areas_.used.store<std::uint16_t>(kRingFlags, kUsedNoNotify, std::memory_order_relaxed);
}

QueueState SplitDeviceQueue::state(std::span<const Chain> outstanding) const {
  QueueState state{.avail = next_avail_, .used = published_used_, .in_flight = {}};
  for (const Chain& chain : outstanding) state.in_flight.push_back({.id = chain.id, .descriptors = {}});
  for (std::size_t i = again_taken_; i < again_.size(); ++i) {
    state.in_flight.push_back({.id = again_[i], .descriptors = {}});
  }
  return state;
}

}  // namespace causeway::virtio

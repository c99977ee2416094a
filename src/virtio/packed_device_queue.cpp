#include "virtio/packed_device_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace causeway::virtio {
namespace {

/// Why a start position cannot be one of this ring; empty when it can.
std::string objection(const QueueState& start, std::uint16_t entries) {
  const auto index = [](std::uint16_t encoded) { return encoded & 0x7fff; };
  if (index(start.avail) >= entries || index(start.used) >= entries) {
    return fmt::format("position {:#x}, used position {:#x}: not both in a ring of {} entries", start.avail, start.used,
                       entries);
  }
  std::size_t held = 0;
  for (const InFlight& chain : start.in_flight) {
    if (chain.descriptors.empty()) return fmt::format("buffer {} in flight without its descriptors", chain.id);
    held += chain.descriptors.size();
  }
  PackedPosition from(start.used, entries);
  if (held <= entries) {
    from.advance(static_cast<std::uint16_t>(held));
    if (from == PackedPosition(start.avail, entries)) return {};
  }
  return fmt::format("{} descriptors in flight do not lead from used position {:#x} to position {:#x}", held,
                     start.used, start.avail);
}

}  // namespace

PackedDeviceQueue::PackedDeviceQueue(const RingConfig& config, RingAreas areas,
                                     std::shared_ptr<const memory::MemoryMap> map, Remember remember)
    : config_(config),
      areas_(std::move(areas)),
      walker_(config, std::move(map)),
      event_idx_(config.features.has(Feature::event_idx)),
      in_order_(config.features.has(Feature::in_order)),
      avail_(config.start.avail, config.size.entries()),
      used_(config.start.used, config.size.entries()),
      again_(config.start.in_flight),
      remembers_(remember == Remember::in_flight) {
  batch_.reserve(config.size.entries());
}

Result<PackedDeviceQueue> PackedDeviceQueue::start(const RingConfig& config,
                                                   std::shared_ptr<const memory::MemoryMap> map, Remember remember) {
  CW_TRY(const auto areas, RingAreas::locate(config, *map));
  if (auto wrong = objection(config.start, config.size.entries()); !wrong.empty()) {
    return fail(Errc::peer_violation, std::move(wrong));
  }
  PackedDeviceQueue queue(config, areas, std::move(map), remember);
  if (config.record) queue.record_ = std::make_unique<PackedInflight>(*config.record, config);
  return queue;
}

Result<void> PackedDeviceQueue::replace_map(std::shared_ptr<const memory::MemoryMap> map) {
  // Behind an IOMMU it is for the ring's user to stop before its own addresses become others.
  if (!map->is_translated()) {
    CW_TRY(areas_, RingAreas::locate(config_, *map));
  }
  walker_.replace_map(std::move(map));
  return {};
}

inline bool PackedDeviceQueue::take_chain(ChainBatch& batch, PackedTail first) {
  const PackedPosition from = avail_;
  Chain& chain = batch.begin();
  RingFault fault = RingFault::none;
  if (room_ != 0 && (first.flags() & (kDescNext | kDescIndirect)) == 0) [[likely]] {
    fault = walker_.add_only(batch, chain, load_address(), first.length(), first.flags());
    chain.id = first.id();
    avail_.advance(1);
    --room_;
  } else {
    fault = walk(batch, chain, first);
  }
  if (fault != RingFault::none) [[unlikely]] {
    batch.abandon(chain);
    avail_ = from;
    if (fault != RingFault::translation_missed) fault_ = fault;
    return false;
  }
  batch.commit();
  if (remembers_) [[unlikely]]
    remember(chain, from);
  return true;
}

std::uint16_t PackedDeviceQueue::take(ChainBatch& batch, std::uint16_t limit) {
  if (again_taken_ != again_.size()) [[unlikely]]
    return take_again(batch, limit);
  if (fault_ != RingFault::none) [[unlikely]]
    return 0;
  limit = static_cast<std::uint16_t>(std::min<std::size_t>(limit, ChainBatch::kMaxChains - batch.size()));
  room_ = config_.size.entries() - avail_.distance_from(used_);
  std::uint16_t count = 0;
  for (; count < limit; ++count) {
    const PackedTail first = load_tail();
    if (!is_available(first.flags())) break;
    if (batch.segment_count() >= ChainWalker::kSegmentsPerBatch && batch.size() != 0) [[unlikely]]
      break;
    if (!take_chain(batch, first)) [[unlikely]] {
      if (fault_ == RingFault::none) look_ahead(batch, limit - count);
      break;
    }
  }
  return count;
}

/// What the next chains lack is asked for together.
void PackedDeviceQueue::look_ahead(ChainBatch& batch, std::uint32_t limit) {
  const PackedPosition from = avail_;
  room_ = config_.size.entries() - avail_.distance_from(used_);
  for (; limit != 0 && room_ != 0; --limit) {
    const PackedTail first = load_tail();
    if (!is_available(first.flags())) break;
    Chain& chain = batch.begin();
    const RingFault fault = walk(batch, chain, first);
    batch.abandon(chain);
    // What else is wrong is for the look that takes it.
    if (fault != RingFault::none && fault != RingFault::translation_missed) break;
  }
  avail_ = from;
}

RingFault PackedDeviceQueue::walk(ChainBatch& batch, Chain& chain, PackedTail tail) {
  RingFault outcome = RingFault::none;
  for (std::uint16_t slots = 1;; ++slots) {
    // More than the ring holds cannot be in flight, unless the driver makes available again what it has not got back.
    if (room_ == 0) return slots == 1 ? RingFault::avail_index_jumped : RingFault::chain_too_long;
    --room_;
    const std::uint64_t address = load_address();
    avail_.advance(1);
    const RingFault fault = add(batch, chain, address, tail.length(), tail.flags());
    if (fault != RingFault::none) outcome = fault;
    if (outcome != RingFault::none && outcome != RingFault::translation_missed) return outcome;
    if ((tail.flags() & kDescNext) == 0) {
      // Only the last descriptor's buffer id counts (2.8.6).
      chain.id = tail.id();
      chain.slots = slots;
      return outcome;
    }
    tail = load_tail();
  }
}

RingFault PackedDeviceQueue::add(ChainBatch& batch, Chain& chain, std::uint64_t address, std::uint32_t length,
                                 std::uint16_t flags) {
  if ((flags & kDescIndirect) == 0) return walker_.add(batch, chain, address, length, flags);
  if ((flags & kDescNext) != 0) return RingFault::indirect_nested;
  return walker_.add_indirect(batch, chain, address, length);
}

RingFault PackedDeviceQueue::walk_again(ChainBatch& batch, Chain& chain, const InFlight& chain_again) {
  chain.id = chain_again.id;
  chain.slots = static_cast<std::uint16_t>(chain_again.descriptors.size());
  chain.again = 1;
  RingFault outcome = RingFault::none;
  for (const PackedDescriptor& descriptor : chain_again.descriptors) {
    const RingFault fault = add(batch, chain, descriptor.address, descriptor.length, descriptor.flags);
    if (fault != RingFault::none) outcome = fault;
    if (outcome != RingFault::none && outcome != RingFault::translation_missed) break;
  }
  return outcome;
}

std::uint16_t PackedDeviceQueue::take_again(ChainBatch& batch, std::uint16_t limit) {
  std::uint16_t count = 0;
  for (; count < limit && !batch.is_full() && fault_ == RingFault::none && again_taken_ != again_.size(); ++count) {
    const InFlight& next = again_[again_taken_];
    Chain& chain = batch.begin();
    const RingFault fault = walk_again(batch, chain, next);
    if (fault != RingFault::none) {
      batch.abandon(chain);
      if (fault != RingFault::translation_missed) fault_ = fault;
      return count;
    }
    batch.commit();
    if (remembers_) remembered_[chain.id] = next;
    ++again_taken_;
  }
  return count;
}

void PackedDeviceQueue::remember(const Chain& chain, PackedPosition at) {
  InFlight& record = remembered_[chain.id];
  record.id = chain.id;
  record.descriptors.clear();
  for (std::uint16_t i = 0; i < chain.slots; ++i) {
    record.descriptors.push_back(areas_.descriptors.fetch<PackedDescriptor>(at.offset()));
    at.advance(1);
  }
}

void PackedDeviceQueue::untake(std::span<const Chain> chains) {
  for (const Chain& chain : chains) {
    if (chain.again != 0) {
      --again_taken_;
    } else {
      avail_.retreat(chain.slots);
      if (record_ && remembers_) [[unlikely]]
        record_->unmark(chain.id);
    }
  }
}

void PackedDeviceQueue::use_unwritten(std::span<const Chain> chains) {
  if (!in_order_) {
    for (const Chain& chain : chains) use(chain, 0);
    return;
  }
  if (chains.empty()) return;
  // One descriptor, at the place of the first, names the last (2.8.7).
  put_used(chains.back().id, 0);
  for (const Chain& chain : chains) advance_used(chain.slots);
}

bool PackedDeviceQueue::publish() {
  if (batch_.empty()) return false;
  if (record_) record_->before_publish(used_, batch_);
  put_into_ring(batch_, areas_.descriptors, config_.size.entries());
  if (record_) record_->after_publish();
  batch_.clear();
  const std::uint16_t moved = unpublished_;
  unpublished_ = 0;
  // Pairs with the driver's fence between its store of its event suppression and its look at the ring.
  memory::full_fence();
  const auto word = areas_.available.load<std::uint32_t>(0, std::memory_order_relaxed);
  return EventSuppression::wants(word, used_, moved, config_.size.entries(), event_idx_);
}

bool PackedDeviceQueue::arm() {
  if (fault_ != RingFault::none) return false;
  const std::uint32_t wish = event_idx_ ? EventSuppression::at(avail_) : EventSuppression::kEnable;
  areas_.used.store<std::uint32_t>(0, wish, std::memory_order_relaxed);
  // Pairs with the driver's fence between its release of a descriptor and its look at our event suppression.
  memory::full_fence();
  return has_available();
}

void PackedDeviceQueue::disarm() {
  if (fault_ != RingFault::none) return;
  areas_.used.store<std::uint32_t>(0, EventSuppression::kDisable, std::memory_order_relaxed);
}

QueueState PackedDeviceQueue::state(std::span<const Chain> outstanding) const {
  QueueState state{.avail = avail_.encoded(), .used = used_.encoded(), .in_flight = {}};
  for (const Chain& chain : outstanding) state.in_flight.push_back(remembered_.at(chain.id));
  state.in_flight.insert(state.in_flight.end(), again_.begin() + static_cast<std::ptrdiff_t>(again_taken_),
                         again_.end());
  return state;
}

}  // namespace causeway::virtio

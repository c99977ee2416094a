#include "virtio/split_driver_queue.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::virtio {

SplitDriverQueue::SplitDriverQueue(const RingConfig& config, RingAreas areas,
                                   std::shared_ptr<const memory::MemoryMap> map)
    : config_(config),
      areas_(std::move(areas)),
      map_(std::move(map)),
      mask_(static_cast<std::uint16_t>(config.size.entries() - 1)),
      event_idx_(config.features.has(Feature::event_idx)),
      in_order_(config.features.has(Feature::in_order)),
      next_(config.size.entries()),
      sent_(config.size.entries()),
      order_(in_order_ ? config.size.entries() : 0),
      free_count_(config.size.entries()),
      next_avail_(config.start.avail),
      published_avail_(config.start.avail),
      next_used_(config.start.avail),
      known_used_(config.start.avail) {
  for (std::uint16_t i = 0; i < config.size.entries(); ++i) next_[i] = static_cast<std::uint16_t>((i + 1) & mask_);
}

Result<SplitDriverQueue> SplitDriverQueue::start(const RingConfig& config,
                                                 const std::shared_ptr<const memory::MemoryMap>& map,
                                                 std::optional<IndirectArea> indirect_area) {
  CW_TRY(const auto areas, RingAreas::locate(config, *map));
  SplitDriverQueue queue(config, areas, map);
  if (indirect_area) {
    if (!config.features.has(Feature::indirect_desc)) {
      return fail(Errc::not_supported, "indirect descriptors were not negotiated");
    }
    queue.indirect_ =
        map->translate(indirect_area->at, indirect_bytes(config.size.entries(), indirect_area->table_entries));
    queue.indirect_iova_ = indirect_area->at;
    queue.table_entries_ = indirect_area->table_entries;
    if (!queue.indirect_) return fail(Errc::invalid_value, "the area for indirect tables is not inside guest memory");
  }
  return queue;
}

bool SplitDriverQueue::add(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable,
                           std::uint64_t token) {
  const std::size_t count = readable.size() + writable.size();
  if (count == 0 || broken_) return false;
  if (indirect_ && count > 1 && count <= table_entries_) return add_indirect(readable, writable, token);
  return add_direct(readable, writable, token);
}

bool SplitDriverQueue::add_direct(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable,
                                  std::uint64_t token) {
  const std::size_t count = readable.size() + writable.size();
  if (count > free_count_) return false;
  const std::uint16_t head = free_head_;
  std::uint16_t at = head;
  for (std::size_t i = 0; i < count; ++i) {
    const bool writes = i >= readable.size();
    const DriverBuffer& buffer = writes ? writable[i - readable.size()] : readable[i];
    const bool last = i + 1 == count;
    const auto flags = static_cast<std::uint16_t>((writes ? kDescWrite : 0) | (last ? 0 : kDescNext));
    areas_.descriptors.put(16u * at, Descriptor{.address = buffer.address.value(),
                                                .length = buffer.length,
                                                .flags = flags,
                                                .next = last ? std::uint16_t{0} : next_[at]});
    at = next_[at];
  }
  free_head_ = at;
  put_available(head, static_cast<std::uint16_t>(count), writable, token);
  return true;
}

bool SplitDriverQueue::add_indirect(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable,
                                    std::uint64_t token) {
  if (free_count_ == 0) return false;
  const std::size_t count = readable.size() + writable.size();
  const std::uint16_t head = free_head_;
  const std::size_t table = std::size_t{16} * table_entries_ * head;
  for (std::size_t i = 0; i < count; ++i) {
    const bool writes = i >= readable.size();
    const DriverBuffer& buffer = writes ? writable[i - readable.size()] : readable[i];
    const bool last = i + 1 == count;
    indirect_->put(table + 16 * i,
                   Descriptor{.address = buffer.address.value(),
                              .length = buffer.length,
                              .flags = static_cast<std::uint16_t>((writes ? kDescWrite : 0) | (last ? 0 : kDescNext)),
                              .next = static_cast<std::uint16_t>(last ? 0 : i + 1)});
  }
  areas_.descriptors.put(16u * head, Descriptor{.address = indirect_iova_.value() + table,
                                                .length = static_cast<std::uint32_t>(16 * count),
                                                .flags = kDescIndirect,
                                                .next = 0});
  free_head_ = next_[head];
  put_available(head, 1, writable, token);
  return true;
}

void SplitDriverQueue::put_available(std::uint16_t head, std::uint16_t descriptors,
                                     std::span<const DriverBuffer> writable, std::uint64_t token) {
  free_count_ = static_cast<std::uint16_t>(free_count_ - descriptors);
  sent_[head] = {.token = token, .writable = 0, .descriptors = descriptors};
  if (in_order_) {
    order_[next_avail_ & mask_] = head;
    // Of a batch the device tells the last chain's length alone.
    for (const DriverBuffer& buffer : writable) sent_[head].writable += buffer.length;
  }
  areas_.available.store<std::uint16_t>(kRingEntries + 2u * (next_avail_ & mask_), head, std::memory_order_relaxed);
  ++next_avail_;
}

bool SplitDriverQueue::publish() {
  if (next_avail_ == published_avail_) return false;
  // Release: descriptors and entries come before the index (device's acquire load of it).
  areas_.available.store<std::uint16_t>(kRingIndex, next_avail_, std::memory_order_release);
  const std::uint16_t old = published_avail_;
  published_avail_ = next_avail_;
  // Pairs with the device's fence in SplitDeviceQueue::arm: one of the two sees the other's store.
  memory::full_fence();
  if (event_idx_) {
    const auto event =
        areas_.used.load<std::uint16_t>(kRingEntries + 8u * config_.size.entries(), std::memory_order_relaxed);
    return passes_event(event, next_avail_, old);
  }
  return (areas_.used.load<std::uint16_t>(kRingFlags, std::memory_order_relaxed) & kUsedNoNotify) == 0;
}

bool SplitDriverQueue::has_used() {
  if (broken_) return false;
  if (known_used_ != next_used_) return true;
  // Acquire pairs with the device's release of the used index.
  known_used_ = areas_.used.load<std::uint16_t>(kRingIndex, std::memory_order_acquire);
  if (static_cast<std::uint16_t>(known_used_ - next_used_) > in_flight()) {
    broken_ = true;
    return false;
  }
  return known_used_ != next_used_;
}

std::optional<UsedChain> SplitDriverQueue::break_down() {
  broken_ = true;
  return std::nullopt;
}

std::optional<UsedChain> SplitDriverQueue::reap() {
  if (!has_used()) return std::nullopt;
  if (in_order_) return reap_in_order();
  const std::size_t slot = kRingEntries + 8u * (next_used_ & mask_);
  const auto id = areas_.used.load<std::uint32_t>(slot, std::memory_order_relaxed);
  const auto written = areas_.used.load<std::uint32_t>(slot + 4, std::memory_order_relaxed);
  if (id > mask_ || sent_[id].descriptors == kNotInFlight) return break_down();
  const auto head = static_cast<std::uint16_t>(id);
  const std::uint64_t token = sent_[head].token;
  release(head);
  return UsedChain{.token = token, .written = written};
}

std::optional<UsedChain> SplitDriverQueue::reap_in_order() {
  if (!batch_last_) {
    // One entry may stand for several chains: it names the last of them (2.7.9).
    const std::size_t slot = kRingEntries + 8u * (next_used_ & mask_);
    const auto id = areas_.used.load<std::uint32_t>(slot, std::memory_order_relaxed);
    batch_written_ = areas_.used.load<std::uint32_t>(slot + 4, std::memory_order_relaxed);
    if (id > mask_ || sent_[id].descriptors == kNotInFlight) return break_down();
    batch_last_ = static_cast<std::uint16_t>(id);
  }
  const std::uint16_t head = order_[next_used_ & mask_];
  if (sent_[head].descriptors == kNotInFlight) return break_down();
  const bool ends_batch = head == *batch_last_;
  const UsedChain used{.token = sent_[head].token, .written = ends_batch ? batch_written_ : sent_[head].writable};
  if (ends_batch) batch_last_.reset();
  release(head);
  return used;
}

void SplitDriverQueue::release(std::uint16_t head) {
  const std::uint16_t descriptors = std::exchange(sent_[head].descriptors, kNotInFlight);
  if (!in_order_) {
    // Back in front of the free list; our own links still join the chain. In order, the table is used round and round.
    std::uint16_t last = head;
    for (std::uint16_t i = 1; i < descriptors; ++i) last = next_[last];
    next_[last] = free_head_;
    free_head_ = head;
  }
  free_count_ = static_cast<std::uint16_t>(free_count_ + descriptors);
  ++next_used_;
}

bool SplitDriverQueue::arm() {
  if (event_idx_) {
    areas_.available.store<std::uint16_t>(kRingEntries + 2u * config_.size.entries(), next_used_,
                                          std::memory_order_relaxed);
  } else {
    areas_.available.store<std::uint16_t>(kRingFlags, 0, std::memory_order_relaxed);
  }
  // Pairs with the device's fence in SplitDeviceQueue::publish.
  memory::full_fence();
  return has_used();
}

void SplitDriverQueue::disarm() {
  if (!event_idx_) areas_.available.store<std::uint16_t>(kRingFlags, kAvailNoInterrupt, std::memory_order_relaxed);
}

}  // namespace causeway::virtio

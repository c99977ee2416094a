#include "virtio/packed_driver_queue.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::virtio {

PackedDriverQueue::PackedDriverQueue(const RingConfig& config, RingAreas areas,
                                     std::shared_ptr<const memory::MemoryMap> map)
    : config_(config),
      areas_(std::move(areas)),
      map_(std::move(map)),
      event_idx_(config.features.has(Feature::event_idx)),
      in_order_(config.features.has(Feature::in_order)),
      avail_(config.start.avail, config.size.entries()),
      used_(avail_),
      first_avail_(avail_),
      free_slots_(config.size.entries()),
      sent_(config.size.entries()) {
  const std::uint16_t entries = config.size.entries();
  for (std::uint16_t id = 0; id < entries; ++id) {
    sent_[id].next = static_cast<std::uint16_t>(id + 1 == entries ? 0 : id + 1);
  }
}

Result<PackedDriverQueue> PackedDriverQueue::start(const RingConfig& config,
                                                   const std::shared_ptr<const memory::MemoryMap>& map,
                                                   std::optional<IndirectArea> indirect_area) {
  CW_TRY(const auto areas, RingAreas::locate(config, *map));
  if ((config.start.avail & ~kWrapCounter) >= config.size.entries()) {
    return fail(Errc::invalid_value, fmt::format("position {:#x} is not in a ring of {} entries", config.start.avail,
                                                 config.size.entries()));
  }
  PackedDriverQueue queue(config, areas, map);
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

void PackedDriverQueue::put(const PackedDescriptor& descriptor) {
  const std::size_t at = avail_.offset();
  const PackedTail tail(descriptor.length, descriptor.id,
                        static_cast<std::uint16_t>(descriptor.flags | avail_.available_bits()));
  areas_.descriptors.store<std::uint64_t>(at, descriptor.address, std::memory_order_relaxed);
  if (unpublished_ == 0) {
    first_avail_ = avail_;
    first_tail_ = tail;
  } else {
    tail.store(areas_.descriptors, at, std::memory_order_relaxed);
  }
  avail_.advance(1);
  ++unpublished_;
}

bool PackedDriverQueue::add(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable,
                            std::uint64_t token) {
  const std::size_t count = readable.size() + writable.size();
  if (count == 0 || broken_) return false;
  const bool indirect = indirect_ && count > 1 && count <= table_entries_;
  const std::size_t slots = indirect ? 1 : count;
  if (slots > free_slots_) return false;
  const std::uint16_t id = free_id_;
  Sent& sent = sent_[id];
  free_id_ = sent.next;
  sent.token = token;
  sent.slots = static_cast<std::uint16_t>(slots);
  if (in_order_) {
    // Of a batch the device tells the last chain's length alone.
    sent.writable = 0;
    for (const DriverBuffer& buffer : writable) sent.writable += buffer.length;
  }
  free_slots_ = static_cast<std::uint16_t>(free_slots_ - slots);
  ++in_flight_;
  indirect ? add_indirect(readable, writable, id) : add_direct(readable, writable, id);
  return true;
}

void PackedDriverQueue::add_direct(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable,
                                   std::uint16_t id) {
  const std::size_t count = readable.size() + writable.size();
  for (std::size_t i = 0; i < count; ++i) {
    const bool writes = i >= readable.size();
    const DriverBuffer& buffer = writes ? writable[i - readable.size()] : readable[i];
    put({.address = buffer.address.value(),
         .length = buffer.length,
         .id = id,
         .flags = static_cast<std::uint16_t>((writes ? kDescWrite : 0) | (i + 1 == count ? 0 : kDescNext))});
  }
}

void PackedDriverQueue::add_indirect(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable,
                                     std::uint16_t id) {
  const std::size_t count = readable.size() + writable.size();
  const std::size_t table = std::size_t{16} * table_entries_ * id;
  for (std::size_t i = 0; i < count; ++i) {
    const bool writes = i >= readable.size();
    const DriverBuffer& buffer = writes ? writable[i - readable.size()] : readable[i];
    indirect_->put(table + 16 * i, PackedDescriptor{.address = buffer.address.value(),
                                                    .length = buffer.length,
                                                    .id = 0,
                                                    .flags = writes ? kDescWrite : std::uint16_t{0}});
  }
  put({.address = indirect_iova_.value() + table,
       .length = static_cast<std::uint32_t>(16 * count),
       .id = id,
       .flags = kDescIndirect});
}

bool PackedDriverQueue::publish() {
  if (unpublished_ == 0) return false;
  // Release: all other descriptors, and what they point to, come before (device's acquire load of these flags).
  first_tail_.store(areas_.descriptors, first_avail_.offset(), std::memory_order_release);
  const std::uint16_t moved = std::exchange(unpublished_, std::uint16_t{0});
  // Pairs with the device's fence in PackedDeviceQueue::arm: one of the two sees the other's store.
  memory::full_fence();
  const auto word = areas_.used.load<std::uint32_t>(0, std::memory_order_relaxed);
  return EventSuppression::wants(word, avail_, moved, config_.size.entries(), event_idx_);
}

bool PackedDriverQueue::has_used() {
  if (broken_ || in_flight_ == 0) return false;
  if (batch_last_) return true;
  // Acquire pairs with the device's release of the first used flags of its batch.
  answer_ = PackedTail::load(areas_.descriptors, used_.offset(), std::memory_order_acquire);
  return (answer_.flags() & kPackedBits) == used_.used_bits();
}

std::optional<UsedChain> PackedDriverQueue::break_down() {
  broken_ = true;
  return std::nullopt;
}

std::optional<UsedChain> PackedDriverQueue::reap() {
  if (!has_used()) return std::nullopt;
  if (!batch_last_) {
    if (answer_.id() >= sent_.size() || sent_[answer_.id()].slots == 0) return break_down();
    if (!in_order_) return release(answer_.id(), answer_.length());
    // One answer may stand for several chains: it names the last of them (2.8.7).
    batch_last_ = answer_.id();
    batch_written_ = answer_.length();
  }
  const std::uint16_t id = oldest_id_;
  if (sent_[id].slots == 0) return break_down();
  oldest_id_ = sent_[id].next;
  if (id != *batch_last_) return release(id, sent_[id].writable);
  batch_last_.reset();
  return release(id, batch_written_);
}

UsedChain PackedDriverQueue::release(std::uint16_t id, std::uint32_t written) {
  Sent& sent = sent_[id];
  const std::uint16_t slots = std::exchange(sent.slots, std::uint16_t{0});
  used_.advance(slots);
  free_slots_ = static_cast<std::uint16_t>(free_slots_ + slots);
  --in_flight_;
  if (!in_order_) {
    sent.next = free_id_;
    free_id_ = id;
  }
  return {.token = sent.token, .written = written};
}

bool PackedDriverQueue::arm() {
  const std::uint32_t wish = event_idx_ ? EventSuppression::at(used_) : EventSuppression::kEnable;
  areas_.available.store<std::uint32_t>(0, wish, std::memory_order_relaxed);
  // Pairs with the device's fence in PackedDeviceQueue::publish.
  memory::full_fence();
  return has_used();
}

void PackedDriverQueue::disarm() {
  areas_.available.store<std::uint32_t>(0, EventSuppression::kDisable, std::memory_order_relaxed);
}

}  // namespace causeway::virtio

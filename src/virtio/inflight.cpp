#include "virtio/inflight.h"

#include "base/owned_fd.h"
#include "virtio/inflight_layout.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::virtio {

using inflight::get;
using inflight::kCurrentVersion;
using inflight::put;

// --- The region -----------------------------------------------------------------------------------------------------

InflightRegion::InflightRegion(Layout layout, std::uint16_t queues, QueueSize entries, OwnedFd file,
                               std::uint64_t offset, std::shared_ptr<const Mapping> memory)
    : layout_(layout),
      queues_(queues),
      entries_(entries),
      file_(std::make_shared<const OwnedFd>(std::move(file))),
      offset_(offset),
      memory_(std::move(memory)) {}

Result<InflightRegion> InflightRegion::make(Layout layout, std::uint16_t queues, QueueSize entries) {
  const std::uint64_t bytes = full_size(layout, queues, entries);
  CW_TRY(auto file, make_memfd("causeway-inflight", bytes));
  return adopt(layout, queues, entries, std::move(file), 0, bytes);
}

Result<InflightRegion> InflightRegion::adopt(Layout layout, std::uint16_t queues, QueueSize entries, OwnedFd file,
                                             std::uint64_t offset, std::uint64_t size) {
  const std::uint64_t least = least_size(layout, queues, entries);
  if (queues == 0 || size < least) {
    return fail(Errc::peer_violation,
                fmt::format("an in-flight region of {} bytes for {} queues of {} entries, which need {}", size, queues,
                            entries.entries(), least));
  }
  if (offset % 64 != 0) return fail(Errc::peer_violation, fmt::format("an in-flight region at offset {}", offset));
  CW_TRY(auto memory, Mapping::map(file, offset, size));
  return InflightRegion(layout, queues, entries, std::move(file), offset, std::move(memory));
}

std::optional<InflightArea> InflightRegion::area(QueueIndex queue, Layout layout, QueueSize entries) const {
  if (number(queue) >= queues_ || layout != layout_ || entries.entries() > entries_.entries()) return std::nullopt;
  const std::size_t stride = InflightArea::size(layout_, entries_.entries());
  const std::size_t log = InflightArea::log_size(layout_, entries_.entries());
  const std::span<std::byte> all(memory_->data(), memory_->size());
  InflightArea area{
      .memory = memory_, .bytes = memory::GuestSpan::over(all.subspan(number(queue) * stride, stride)), .log = {}};
  if (size() >= full_size(layout_, queues_, entries_)) {
    area.log = memory::GuestSpan::over(all.subspan(queues_ * stride + number(queue) * log, log));
  }
  return area;
}

void InflightArea::clear() const {
  // An area without a version is fresh, whatever else lies in it.
  put<std::uint16_t>(*this, inflight::kVersion, 0);
}

// --- Split ----------------------------------------------------------------------------------------------------------

SplitInflight::SplitInflight(InflightArea area, const RingConfig& ring, std::uint16_t used)
    : area_(std::move(area)), entries_(ring.size.entries()) {
  if (!go_on(ring, used)) begin(ring, used);
}

bool SplitInflight::go_on(const RingConfig& ring, std::uint16_t used) {
  namespace at = inflight::split;
  std::size_t marked = 0;
  for (std::uint16_t i = 0; i < entries_; ++i) {
    if (get<std::uint8_t>(area_, at::at(i) + at::kInflight) != 0) ++marked;
    counter_ = std::max(counter_, get<std::uint64_t>(area_, at::at(i) + at::kCounter));
  }
  last_batch_head_ = get<std::uint16_t>(area_, at::kLastBatchHead);
  used_idx_ = used;
  const auto is_marked = [&](const InFlight& chain) {
    return get<std::uint8_t>(area_, at::at(chain.id) + at::kInflight) != 0;
  };
  return get<std::uint16_t>(area_, inflight::kVersion) == kCurrentVersion &&
         get<std::uint16_t>(area_, inflight::kEntries) == entries_ && get<std::uint16_t>(area_, at::kUsedIdx) == used &&
         marked == ring.start.in_flight.size() && std::ranges::all_of(ring.start.in_flight, is_marked);
}

void SplitInflight::begin(const RingConfig& ring, std::uint16_t used) {
  put<std::uint16_t>(area_, inflight::kVersion, 0);
  for (std::uint16_t i = 0; i < entries_; ++i) {
    put<std::uint8_t>(area_, inflight::split::at(i) + inflight::split::kInflight, 0);
  }
  counter_ = 0;
  last_batch_head_ = 0;
  for (const InFlight& chain : ring.start.in_flight) mark(chain.id);
  store_head(used);
}

void SplitInflight::store_head(std::uint16_t used) {
  used_idx_ = used;
  put(area_, inflight::kHeadWord, inflight::word(kCurrentVersion, entries_, last_batch_head_, used_idx_));
}

void SplitInflight::mark(std::uint16_t head) {
  namespace at = inflight::split;
  put<std::uint64_t>(area_, at::at(head) + at::kCounter, ++counter_);
  put<std::uint8_t>(area_, at::at(head) + at::kInflight, 1);
}

void SplitInflight::unmark(std::uint16_t head) {
  put<std::uint8_t>(area_, inflight::split::at(head) + inflight::split::kInflight, 0);
}

void SplitInflight::before_publish() {
  if (used_.empty()) return;
  for (const std::uint16_t head : used_) {
    put<std::uint16_t>(area_, inflight::split::at(head) + inflight::split::kNext, last_batch_head_);
    last_batch_head_ = head;
  }
  store_head(used_idx_);
}

void SplitInflight::after_publish(std::uint16_t used) {
  for (const std::uint16_t head : used_) unmark(head);
  used_.clear();
  store_head(used);
}

// --- Packed ---------------------------------------------------------------------------------------------------------

PackedInflight::PackedInflight(InflightArea area, const RingConfig& ring)
    : area_(std::move(area)),
      entries_(ring.size.entries()),
      used_position_(ring.start.used, entries_),
      published_(used_position_),
      next_(entries_),
      last_(entries_) {
  if (!go_on(ring)) begin(ring);
}

bool PackedInflight::go_on(const RingConfig& ring) {
  namespace at = inflight::packed;
  const auto found = inflight::read_packed(area_, entries_);
  if (!found || found->free_head != found->old_free_head || !(found->used == published_) ||
      !(found->old_used == published_) ||
      !std::ranges::equal(found->chains, ring.start.in_flight, {}, &inflight::Recorded::chain)) {
    return false;
  }
  for (std::uint16_t i = 0; i < entries_; ++i) next_[i] = get<std::uint16_t>(area_, at::at(i) + at::kNext);
  if (std::ranges::any_of(next_, [this](std::uint16_t next) { return next > entries_; })) return false;
  free_head_ = found->free_head;
  for (const inflight::Recorded& recorded : found->chains) {
    entry_of_[recorded.chain.id] = recorded.head;
    last_[recorded.head] = recorded.last;
    counter_ = std::max(counter_, recorded.counter);
  }
  return true;
}

void PackedInflight::begin(const RingConfig& ring) {
  namespace at = inflight::packed;
  put<std::uint16_t>(area_, inflight::kVersion, 0);
  for (std::uint16_t i = 0; i < entries_; ++i) {
    next_[i] = static_cast<std::uint16_t>(i + 1);
    put<std::uint16_t>(area_, at::at(i) + at::kNext, next_[i]);
    put<std::uint8_t>(area_, at::at(i) + at::kInflight, 0);
  }
  free_head_ = 0;
  counter_ = 0;
  store_positions(published_);
  for (const InFlight& chain : ring.start.in_flight) mark(chain);
  put(area_, inflight::kHeadWord, inflight::word(kCurrentVersion, entries_, free_head_, free_head_));
}

void PackedInflight::store_heads(std::uint16_t old_free_head) {
  // While the record is being begun it has no version yet.
  const auto version = get<std::uint16_t>(area_, inflight::kVersion);
  put(area_, inflight::kHeadWord, inflight::word(version, entries_, free_head_, old_free_head));
}

void PackedInflight::store_positions(PackedPosition old_used) {
  put(area_, inflight::kPositionWord, inflight::position_word(used_position_, old_used));
}

void PackedInflight::write_entry(std::uint16_t entry, const PackedDescriptor& descriptor) {
  namespace at = inflight::packed;
  put(area_, at::at(entry) + at::kId, descriptor.id);
  put(area_, at::at(entry) + at::kFlags, descriptor.flags);
  put(area_, at::at(entry) + at::kLength, descriptor.length);
  put(area_, at::at(entry) + at::kAddress, descriptor.address);
}

void PackedInflight::mark(const InFlight& chain) {
  namespace at = inflight::packed;
  const std::uint16_t head = free_head_;
  std::uint16_t last = head;
  for (const PackedDescriptor& descriptor : chain.descriptors) {
    if (free_head_ >= entries_) {  // a driver has used an id twice: it will not get back what it has lost
      free_head_ = head;
      return;
    }
    last = free_head_;
    write_entry(last, descriptor);
    free_head_ = next_[last];
  }
  last_[head] = last;
  entry_of_[chain.id] = head;
  put(area_, at::at(head) + at::kLast, last);
  put(area_, at::at(head) + at::kNum, static_cast<std::uint16_t>(chain.descriptors.size()));
  put(area_, at::at(head) + at::kCounter, ++counter_);
  put<std::uint8_t>(area_, at::at(head) + at::kInflight, 1);
  // From here on the chain is in flight: until now its entries are those of the free list.
  store_heads(free_head_);
}

void PackedInflight::give_back(std::uint16_t head) {
  next_[last_[head]] = free_head_;
  put(area_, inflight::packed::at(last_[head]) + inflight::packed::kNext, free_head_);
  free_head_ = head;
}

void PackedInflight::unmark(std::uint16_t id) {
  const auto found = entry_of_.find(id);
  if (found == entry_of_.end()) return;
  const std::uint16_t head = found->second;
  entry_of_.erase(found);
  give_back(head);
  store_heads(free_head_);
  put<std::uint8_t>(area_, inflight::packed::at(head) + inflight::packed::kInflight, 0);
}

void PackedInflight::store_log(std::span<const PackedUsed> batch) {
  if (area_.log.size() == 0) return;
  std::size_t offset = inflight::packed::kLogTable;
  for (const PackedUsed& entry : batch) {
    area_.log.store(offset, std::bit_cast<std::uint64_t>(entry), std::memory_order_release);
    offset += sizeof entry;
  }
  area_.log.store(0, inflight::log_word(batch.size(), published_, used_position_), std::memory_order_release);
}

void PackedInflight::before_publish(PackedPosition used, std::span<const PackedUsed> batch) {
  const std::uint16_t old_free_head = free_head_;
  for (const std::uint16_t id : used_) {
    const auto found = entry_of_.find(id);
    if (found == entry_of_.end()) continue;
    given_back_.push_back(found->second);
    give_back(found->second);
    entry_of_.erase(found);
  }
  used_.clear();
  used_position_ = used;
  store_log(batch);
  if (!given_back_.empty()) store_heads(old_free_head);
  // That the positions differ says that the new heads count, and that all of the batch will be used.
  store_positions(published_);
  // The ring is written by relaxed stores.
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

void PackedInflight::after_publish() {
  if (!given_back_.empty()) {
    for (const std::uint16_t head : given_back_) {
      put<std::uint8_t>(area_, inflight::packed::at(head) + inflight::packed::kInflight, 0);
    }
    given_back_.clear();
    store_heads(free_head_);
  }
  published_ = used_position_;
  store_positions(published_);
}

// --- Either
// -----------------------------------------------------------------------------------------------------------

Result<void> record_start(const InflightArea& area, const RingConfig& ring, const memory::MemoryMap& map) {
  const bool is_packed = ring.layout() == Layout::packed;
  for (const InFlight& chain : ring.start.in_flight) {
    if (is_packed ? !chain.descriptors.empty() : chain.id < ring.size.entries()) continue;
    return fail(Errc::peer_violation,
                fmt::format("buffer {} in flight is in no ring of {} entries", chain.id, ring.size.entries()));
  }
  if (is_packed) {
    const PackedInflight recorded(area, ring);
    return {};
  }
  CW_TRY(const auto areas, RingAreas::locate(ring, map));
  const SplitInflight recorded(area, ring, areas.used.load<std::uint16_t>(kRingIndex, std::memory_order_acquire));
  return {};
}

}  // namespace causeway::virtio

// The device side of a ring whose writes are logged, for a live migration.
#pragma once

#include "base/result.h"
#include "memory/dirty_log.h"
#include "memory/memory_map.h"
#include "virtio/chain.h"
#include "virtio/ring.h"
#include "virtio/ring_marks.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace causeway::virtio {

/// What a ring's user knows of its writes when it uses a chain.
enum class Extent : std::uint8_t {
  exact,    ///< the segments that it has written, in order, and how many bytes: `use` with three arguments
  unknown,  ///< any writable byte of the chain may have been written: `use` with two
};

/// A DeviceRing over another that marks, in the log of its RingConfig, what is written into chains before the driver
/// can see them used, and what the ring itself is written. Users that are templates of a DeviceRing log with it and pay
/// nothing without. Where the RingConfig has no log it marks nothing. Thread: as for the ring.
template <class Ring, Extent kExtent>
class LoggedRing {
 public:
  static Result<LoggedRing> start(const RingConfig& config, std::shared_ptr<const memory::MemoryMap> map,
                                  Remember remember = Remember::nothing) {
    CW_TRY(auto areas, written_areas(config, map));
    auto memory = memory::MemoryMap::behind(map);
    CW_TRY(auto ring, Ring::start(config, std::move(map), remember));
    return LoggedRing(std::move(ring), config, std::move(areas), std::move(memory));
  }

  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map) {
    memory_ = memory::Translator(memory::MemoryMap::behind(map));
    return ring_.replace_map(std::move(map));
  }

  bool has_available() { return ring_.has_available(); }
  std::uint16_t take(ChainBatch& batch, std::uint16_t limit) {
    if constexpr (kExtent == Extent::exact) return ring_.take(batch, limit);
    const std::size_t before = batch.size();
    const std::uint16_t count = ring_.take(batch, limit);
    for (const Chain& chain : batch.chains().subspan(before)) remember(chain.id, batch.writable(chain));
    return count;
  }
  void untake(std::span<const Chain> chains) { ring_.untake(chains); }

  void use(const Chain& chain, std::uint32_t written)
    requires(kExtent == Extent::unknown)
  {
    has_used_ = true;
    for (const memory::IovaRange& place : writable_[chain.id]) note(place);
    ring_.use(chain, written);
  }
  void use(const Chain& chain, std::uint32_t written, std::span<const memory::GuestSpan> writable)
    requires(kExtent == Extent::exact)
  {
    has_used_ = true;
    if (writable.front().size() >= written) [[likely]] {
      note({.first = place_of(writable.front()).first, .size = written});
    } else {
      note_pieces(written, writable);
    }
    ring_.use(chain, written);
  }
  void use_unwritten(std::span<const Chain> chains) {
    has_used_ = has_used_ || !chains.empty();
    ring_.use_unwritten(chains);
  }
  void mark(const Chain& chain) { ring_.mark(chain); }
  void unmark(const Chain& chain) { ring_.unmark(chain); }

  bool publish() {
    if (noted_ != 0) mark_noted();
    const bool wants_call = ring_.publish();
    if (std::exchange(has_used_, false)) mark_own();
    return wants_call;
  }
  bool arm() {
    const bool has_work = ring_.arm();
    mark_own();
    return has_work;
  }
  void disarm() {
    ring_.disarm();
    mark_own();
  }

  std::vector<memory::Miss> take_misses() { return ring_.take_misses(); }
  RingFault fault() const { return ring_.fault(); }
  void set_fault(RingFault fault) { ring_.set_fault(fault); }
  QueueState state(std::span<const Chain> outstanding = {}) const { return ring_.state(outstanding); }

 private:
  LoggedRing(Ring ring, const RingConfig& config, std::vector<memory::IovaRange> areas,
             std::shared_ptr<const memory::MemoryMap> memory)
      : ring_(std::move(ring)), log_(config.log), areas_(std::move(areas)), memory_(std::move(memory)) {
    mark_own();
  }

  void remember(std::uint16_t id, std::span<const memory::GuestSpan> segments) {
    // Of a packed ring any number may be an id.
    if (id >= writable_.size()) writable_.resize(std::size_t{id} + 1);
    writable_[id].clear();
    for (const memory::GuestSpan& segment : segments) writable_[id].push_back(place_of(segment));
  }
  memory::IovaRange place_of(const memory::GuestSpan& segment) {
    const auto at = memory_.iova_of(segment);
    // The memory was translated by a map of the same regions: nothing else may be written unlogged.
    if (!at) [[unlikely]] {
      ring_.set_fault(RingFault::outside_memory);
      return {.first = memory::Iova(0), .size = 0};
    }
    return {.first = *at, .size = segment.size()};
  }

  void note_pieces(std::uint64_t bytes, std::span<const memory::GuestSpan> segments) {
    for (const memory::GuestSpan& segment : segments) {
      if (bytes == 0) return;
      memory::IovaRange place = place_of(segment);
      place.size = std::min(place.size, bytes);
      bytes -= place.size;
      note(place);
    }
  }
  void note(memory::IovaRange place) {
    if (noted_ == written_.size()) [[unlikely]]
      mark_noted();
    written_[noted_++] = place;
  }
  void mark_noted() {
    const std::span<const memory::IovaRange> noted = std::span(written_).first(std::exchange(noted_, 0));
    if (!log_) return;
    memory::full_fence();  // see DirtyLog::mark
    for (const memory::IovaRange& place : noted) log_->mark(place.first, place.size);
  }
  void mark_own() {
    if (log_) mark_ring(*log_, areas_);
  }

  Ring ring_;
  std::shared_ptr<const memory::DirtyLog> log_;
  std::vector<memory::IovaRange> areas_;                  // of the ring itself, that are written
  memory::Translator memory_;                             // from our memory to the log's addresses
  std::vector<std::vector<memory::IovaRange>> writable_;  // of chains taken, by id; where nothing else is known
  std::array<memory::IovaRange, 64> written_;             // not marked yet
  std::size_t noted_ = 0;                                 // so many of them
  bool has_used_ = false;                                 // since the last publish
};

}  // namespace causeway::virtio

// What both sides of a packed virtqueue agree on. Spec: virtio 1.3 section 2.8.
#pragma once

#include "virtio/ring.h"

#include <atomic>
#include <bit>
#include <cstdint>
#include <span>

namespace causeway::virtio {

inline constexpr std::uint16_t kWrapCounter = 1U << 15;

/// A place in a packed ring: a descriptor's number and the wrap counter of the lap. Value type.
class PackedPosition {
 public:
  /// `encoded` as in QueueState; the number must be below `entries`.
  constexpr PackedPosition(std::uint16_t encoded, std::uint16_t entries)
      : index_(encoded & static_cast<std::uint16_t>(~kWrapCounter)),
        entries_(entries),
        wrap_((encoded & kWrapCounter) != 0) {}

  constexpr std::uint16_t index() const { return index_; }
  constexpr bool wrap() const { return wrap_; }
  constexpr std::size_t offset() const { return std::size_t{16} * index_; }
  constexpr std::uint16_t encoded() const { return static_cast<std::uint16_t>(index_ | (wrap_ ? kWrapCounter : 0)); }
  /// AVAIL and USED bits of a descriptor made available in this lap.
  constexpr std::uint16_t available_bits() const { return wrap_ ? kDescAvail : kDescUsed; }
  /// The same of a descriptor used in this lap.
  constexpr std::uint16_t used_bits() const { return wrap_ ? kDescAvail | kDescUsed : 0; }

  /// `steps`: at most the ring's size.
  constexpr void advance(std::uint16_t steps) {
    const std::uint32_t next = std::uint32_t{index_} + steps;
    const bool wraps = next >= entries_;
    index_ = static_cast<std::uint16_t>(wraps ? next - entries_ : next);
    wrap_ = wrap_ != wraps;
  }
  constexpr void retreat(std::uint16_t steps) {
    const bool wraps = steps > index_;
    index_ = static_cast<std::uint16_t>(wraps ? index_ + entries_ - steps : index_ - steps);
    wrap_ = wrap_ != wraps;
  }
  /// Descriptors from `other`, which lies at most one lap behind, to here.
  constexpr std::uint32_t distance_from(PackedPosition other) const {
    return std::uint32_t{index_} + (wrap_ != other.wrap_ ? entries_ : 0U) - other.index_;
  }
  constexpr bool operator==(const PackedPosition&) const = default;

 private:
  std::uint16_t index_;
  std::uint16_t entries_;
  bool wrap_;
};

inline constexpr std::uint16_t kPackedBits = kDescAvail | kDescUsed;

/// The second half of a descriptor, which holds the flags: read and written at once, so that length and id are always
/// those that belong to the flags. Value type.
class PackedTail {
 public:
  constexpr PackedTail(std::uint32_t length, std::uint16_t id, std::uint16_t flags)
      : word_(std::uint64_t{flags} << 48 | std::uint64_t{id} << 32 | length) {}

  /// Of the descriptor at byte `offset` of `ring`.
  static PackedTail load(const memory::GuestSpan& ring, std::size_t offset, std::memory_order order) {
    return PackedTail(ring.load<std::uint64_t>(offset + kOffset, order));
  }
  void store(const memory::GuestSpan& ring, std::size_t offset, std::memory_order order) const {
    ring.store<std::uint64_t>(offset + kOffset, word_, order);
  }
  constexpr std::uint32_t length() const { return static_cast<std::uint32_t>(word_); }
  constexpr std::uint16_t id() const { return static_cast<std::uint16_t>(word_ >> 32); }
  constexpr std::uint16_t flags() const { return static_cast<std::uint16_t>(word_ >> 48); }

 private:
  static constexpr std::size_t kOffset = 8;
  constexpr explicit PackedTail(std::uint64_t word) : word_(word) {}
  std::uint64_t word_;
};
static_assert(std::endian::native == std::endian::little);

/// A used descriptor that is to go into a ring. Value type, also a word of an in-flight record's batch.
struct PackedUsed {
  std::uint32_t written;   ///< bytes
  std::uint16_t id;        ///< the chain's
  std::uint16_t position;  ///< encoded

  void store(const memory::GuestSpan& ring, std::uint16_t entries, std::memory_order order) const {
    const PackedPosition at(position, entries);
    const std::uint16_t writes = written != 0 ? kDescWrite : 0;
    PackedTail(written, id, static_cast<std::uint16_t>(at.used_bits() | writes)).store(ring, at.offset(), order);
  }
};
static_assert(sizeof(PackedUsed) == 8);

/// Makes all of a batch visible at once. `batch`: not empty, each entry behind the one before.
inline void put_into_ring(std::span<const PackedUsed> batch, const memory::GuestSpan& ring, std::uint16_t entries) {
  // No order among these: the first, stored last with release, makes them visible, and with them all that was written
  // into buffers (driver's acquire load).
  for (const PackedUsed& used : batch.subspan(1)) used.store(ring, entries, std::memory_order_relaxed);
  batch.front().store(ring, entries, std::memory_order_release);
}

/// A driver's or device's event suppression (2.8.14): what it wants to be notified of. Read and written as one 32-bit
/// word, so that both halves belong together.
struct EventSuppression {
  static constexpr std::uint32_t kEnable = 0;
  static constexpr std::uint32_t kDisable = 1U << 16;
  /// Only once `position` has been passed; needs EVENT_IDX.
  static constexpr std::uint32_t at(PackedPosition position) { return 2U << 16 | position.encoded(); }

  /// Whether to notify its writer, after the ring moved by `moved` descriptors to `now`.
  static constexpr bool wants(std::uint32_t word, PackedPosition now, std::uint16_t moved, std::uint16_t entries,
                              bool event_idx) {
    const std::uint32_t flags = word >> 16 & 3U;
    if (flags == 1) return false;
    if (flags != 2 || !event_idx) return true;
    auto event = static_cast<std::uint16_t>(word & 0x7fff);
    // An event of the lap before lies as far back as the ring is long.
    if (((word & kWrapCounter) != 0) != now.wrap()) event = static_cast<std::uint16_t>(event - entries);
    return passes_event(event, now.index(), static_cast<std::uint16_t>(now.index() - moved));
  }
};

}  // namespace causeway::virtio

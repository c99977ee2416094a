// The bytes of an in-flight record, as QEMU's vhost-user.rst lays them out. Private to the record.
#pragma once

#include "virtio/inflight.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace causeway::virtio::inflight {

// struct QueueRegionSplit and QueueRegionPacked; the first 12 bytes are the same.
inline constexpr std::size_t kVersion = 8;
inline constexpr std::size_t kEntries = 10;  ///< desc_num
inline constexpr std::uint16_t kCurrentVersion = 1;

/// Words that belong together are written at once: no crash can part them.
inline constexpr std::size_t kHeadWord = 8;       ///< version, desc_num, and the next two of either layout
inline constexpr std::size_t kPositionWord = 16;  ///< packed: used_idx, old_used_idx, the two wrap counters

namespace split {
inline constexpr std::size_t kLastBatchHead = 12;
inline constexpr std::size_t kUsedIdx = 14;
inline constexpr std::size_t kTable = 16;
// struct DescStateSplit
inline constexpr std::size_t kEntry = 16;
inline constexpr std::size_t kInflight = 0;
inline constexpr std::size_t kNext = 6;
inline constexpr std::size_t kCounter = 8;
constexpr std::size_t at(std::uint16_t entry) {
  return kTable + kEntry * entry;
}
}  // namespace split

namespace packed {
inline constexpr std::size_t kFreeHead = 12;
inline constexpr std::size_t kOldFreeHead = 14;
inline constexpr std::size_t kTable = 32;
// struct DescStatePacked
inline constexpr std::size_t kEntry = 32;
inline constexpr std::size_t kInflight = 0;
inline constexpr std::size_t kNext = 2;
inline constexpr std::size_t kLast = 4;
inline constexpr std::size_t kNum = 6;
inline constexpr std::size_t kCounter = 8;
inline constexpr std::size_t kId = 16;
inline constexpr std::size_t kFlags = 18;
inline constexpr std::size_t kLength = 20;
inline constexpr std::size_t kAddress = 24;
constexpr std::size_t at(std::uint16_t entry) {
  return kTable + kEntry * entry;
}
// The log: log_word(), then a PackedUsed for each of the batch.
inline constexpr std::size_t kLogTable = 8;
}  // namespace packed

constexpr std::uint64_t word(std::uint16_t a, std::uint16_t b, std::uint16_t c, std::uint16_t d) {
  return std::uint64_t{a} | std::uint64_t{b} << 16 | std::uint64_t{c} << 32 | std::uint64_t{d} << 48;
}

/// Used positions of a packed ring: the present one and that of before the last batch.
constexpr std::uint64_t position_word(PackedPosition used, PackedPosition old_used) {
  const unsigned wraps = (used.wrap() ? 1U : 0U) | (old_used.wrap() ? 1U << 8 : 0U);
  return word(used.index(), old_used.index(), static_cast<std::uint16_t>(wraps), 0);
}

/// Of what batch a log is: how many chains, and the used positions before and after.
constexpr std::uint64_t log_word(std::size_t count, PackedPosition before, PackedPosition after) {
  return word(static_cast<std::uint16_t>(count), before.encoded(), after.encoded(), 0);
}

// All stores are in program order, which is all that a SIGKILL respects: the kernel keeps the memory as it is.
template <class T>
void put(const InflightArea& area, std::size_t offset, T value) {
  area.bytes.store<T>(offset, value, std::memory_order_release);
}
template <class T>
T get(const InflightArea& area, std::size_t offset) {
  return area.bytes.load<T>(offset, std::memory_order_acquire);
}

/// A chain of a packed ring as recorded.
struct Recorded {
  std::uint16_t head;
  std::uint16_t last;
  std::uint64_t counter;
  InFlight chain;
};

/// What a packed record says, in order of the counters. Value type.
struct PackedContents {
  std::uint16_t free_head;
  std::uint16_t old_free_head;
  PackedPosition used;
  PackedPosition old_used;
  std::vector<Recorded> chains;
};

/// Reads a record once. Errc::not_found: nothing was ever recorded; Errc::peer_violation: it contradicts itself.
Result<PackedContents> read_packed(const InflightArea& area, std::uint16_t entries);

}  // namespace causeway::virtio::inflight

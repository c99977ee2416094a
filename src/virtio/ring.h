// What both sides of a split virtqueue agree on. Spec: virtio 1.3 section 2.7.
#pragma once

#include "base/result.h"
#include "memory/address.h"
#include "memory/memory_map.h"
#include "virtio/feature.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::virtio {

/// Number of a virtqueue of one device, from 0.
enum class QueueIndex : std::uint16_t {};
constexpr std::uint16_t number(QueueIndex queue) {
  return static_cast<std::uint16_t>(queue);
}

/// Entries of a split ring: a power of two from 1 to 32768 (2.7).
class QueueSize {
 public:
  static constexpr std::uint32_t kMax = 32768;
  static Result<QueueSize> split(std::uint32_t entries);
  constexpr std::uint16_t entries() const { return entries_; }
  constexpr bool operator==(const QueueSize&) const = default;

 private:
  constexpr explicit QueueSize(std::uint16_t entries) : entries_(entries) {}
  std::uint16_t entries_;
};

/// Where the next user of a ring's device side must resume. Value type.
struct QueueState {
  std::uint16_t avail_idx = 0;           ///< next entry of the available ring to be read; free-running
  std::vector<std::uint16_t> in_flight;  ///< heads taken but not yet used, in the order they were taken
  bool operator==(const QueueState&) const = default;
};

/// A ring as negotiated: enough to start either side of it. Value type.
struct RingConfig {
  QueueSize size;
  memory::Iova descriptors;
  memory::Iova available;
  memory::Iova used;
  FeatureSet features;  ///< those negotiated
  QueueState start;
};

/// Why a device side cannot go on with a ring. One byte, so that hot loops make no text.
enum class RingFault : std::uint8_t {
  none,
  avail_index_jumped,
  head_out_of_range,
  next_out_of_range,
  chain_too_long,
  outside_memory,
  indirect_not_negotiated,
  indirect_bad_length,
  indirect_nested,
  readable_after_writable,
  chain_without_use,  ///< a chain the device type cannot use: no writable part where one is due, or the like
};
std::string_view text(RingFault fault);

/// The three areas of a split ring in host memory. Kept with the map that holds them.
struct SplitAreas {
  memory::GuestSpan descriptors;
  memory::GuestSpan available;
  memory::GuestSpan used;

  static constexpr std::size_t descriptor_bytes(QueueSize size) { return 16u * size.entries(); }
  static constexpr std::size_t available_bytes(QueueSize size) { return 6u + 2u * size.entries(); }
  static constexpr std::size_t used_bytes(QueueSize size) { return 6u + 8u * size.entries(); }
  /// Errc::peer_violation when an area is misaligned (16, 2, 4 bytes: 2.7) or not in `map`; the text names it.
  static Result<SplitAreas> locate(const RingConfig& config, const memory::MemoryMap& map);
};

// Flags of a descriptor (2.7.5), of the available ring (2.7.6) and of the used ring (2.7.8).
inline constexpr std::uint16_t kDescNext = 1;
inline constexpr std::uint16_t kDescWrite = 2;
inline constexpr std::uint16_t kDescIndirect = 4;
inline constexpr std::uint16_t kAvailNoInterrupt = 1;
inline constexpr std::uint16_t kUsedNoNotify = 1;

/// Offsets inside the available and used areas.
inline constexpr std::size_t kRingFlags = 0;
inline constexpr std::size_t kRingIndex = 2;
inline constexpr std::size_t kRingEntries = 4;

/// True when moving an index from `old_index` to `new_index` passes `event` (2.7.10).
constexpr bool passes_event(std::uint16_t event, std::uint16_t new_index, std::uint16_t old_index) {
  return static_cast<std::uint16_t>(new_index - event - 1) < static_cast<std::uint16_t>(new_index - old_index);
}

/// One descriptor, read once. In a table that may be written by the other side at any time.
struct Descriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;

  /// `table` must hold entry `index`; any alignment (an indirect table may have any).
  static Descriptor fetch(const memory::GuestSpan& table, std::size_t index) {
    return table.fetch<Descriptor>(index * sizeof(Descriptor));
  }
};
static_assert(sizeof(Descriptor) == 16);

}  // namespace causeway::virtio

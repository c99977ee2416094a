// What both sides of a virtqueue agree on, whatever its layout. Spec: virtio 1.3 sections 2.6 to 2.8.
#pragma once

#include "base/result.h"
#include "memory/address.h"
#include "memory/memory_map.h"
#include "virtio/feature.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::memory {
class DirtyLog;
}

namespace causeway::virtio {

/// Number of a virtqueue of one device, from 0.
enum class QueueIndex : std::uint16_t {};
constexpr std::uint16_t number(QueueIndex queue) {
  return static_cast<std::uint16_t>(queue);
}

/// How a virtqueue lies in memory.
enum class Layout : std::uint8_t { split, packed };
constexpr Layout layout_of(FeatureSet negotiated) {
  return negotiated.has(Feature::ring_packed) ? Layout::packed : Layout::split;
}

/// Entries of a ring: from 1 to 32768, for a split ring a power of two (2.7, 2.8.10.1).
class QueueSize {
 public:
  static constexpr std::uint32_t kMax = 32768;
  static Result<QueueSize> make(Layout layout, std::uint32_t entries);
  static Result<QueueSize> split(std::uint32_t entries) { return make(Layout::split, entries); }
  static Result<QueueSize> packed(std::uint32_t entries) { return make(Layout::packed, entries); }
  constexpr std::uint16_t entries() const { return entries_; }
  constexpr bool operator==(const QueueSize&) const = default;

 private:
  constexpr explicit QueueSize(std::uint16_t entries) : entries_(entries) {}
  std::uint16_t entries_;
};

/// One entry of a packed ring, or of an indirect table in its format (2.8.13).
struct PackedDescriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t id;
  std::uint16_t flags;
  bool operator==(const PackedDescriptor&) const = default;
};
static_assert(sizeof(PackedDescriptor) == 16);

/// A chain that was taken and not used yet. Value type.
struct InFlight {
  std::uint16_t id = 0;  ///< split: the head's index; packed: the buffer id
  /// Packed only: what lay in the ring, since used descriptors overwrite it. One for an indirect table. Their number is
  /// also that of the ring entries the chain holds.
  std::vector<PackedDescriptor> descriptors;
  bool operator==(const InFlight&) const = default;
};

/// Where the next user of a ring's device side must resume. Value type.
///
/// A position of a split ring is a free-running index. A position of a packed ring is the number of a descriptor in
/// bits 0 to 14 and the wrap counter in bit 15, as vhost encodes it.
struct QueueState {
  std::uint16_t avail = 0;          ///< next to be taken
  std::uint16_t used = 0;           ///< next to be used; a split ring's own used index rules
  std::vector<InFlight> in_flight;  ///< taken but not used, in the order they were taken

  /// Of a ring that nobody has used yet.
  static QueueState initial(Layout layout);
  bool operator==(const QueueState&) const = default;
};

struct InflightArea;

/// Whether a device side can say, at any time, which chains it has taken and not used: for `state` with outstanding
/// chains, and for the record. A user that uses or puts back all it took before it stops need not.
enum class Remember : std::uint8_t { nothing, in_flight };

/// A ring as negotiated: enough to start either side of it. Value type.
struct RingConfig {
  QueueSize size;
  memory::Iova descriptors;  ///< descriptor area: the table, or the packed ring
  memory::Iova available;    ///< driver area: the available ring, or the driver's event suppression
  memory::Iova used;         ///< device area: the used ring, or the device's event suppression
  FeatureSet features;       ///< those negotiated; RING_PACKED decides the layout
  QueueState start;
  /// Where the device side records what is in flight (virtio/inflight.h); nullptr: nowhere.
  std::shared_ptr<const InflightArea> record = nullptr;
  /// Where the device side marks the pages that it writes (virtio/logged_ring.h); nullptr: nowhere.
  std::shared_ptr<const memory::DirtyLog> log = nullptr;

  Layout layout() const { return layout_of(features); }
};

/// Sizes of a ring's three areas in bytes, and where they must be aligned (2.6, 2.7, 2.8.10.1).
struct RingAreaSizes {
  struct Area {
    std::size_t bytes;
    std::size_t alignment;
    memory::Access access;  ///< the device's
  };
  Area descriptors;
  Area available;
  Area used;
  static constexpr RingAreaSizes of(Layout layout, QueueSize size) {
    using enum memory::Access;
    const std::size_t entries = size.entries();
    if (layout == Layout::packed) return {{16 * entries, 16, read_write}, {4, 4, read}, {4, 4, read_write}};
    return {{16 * entries, 16, read}, {6 + 2 * entries, 2, read}, {6 + 8 * entries, 4, read_write}};
  }
};

/// The three areas of a ring in host memory. Kept with the map that holds them.
struct RingAreas {
  memory::GuestSpan descriptors;
  memory::GuestSpan available;
  memory::GuestSpan used;
  std::vector<std::shared_ptr<const Mapping>> own{};  // NOLINT(readability-redundant-member-init): of areas in pieces
  /// Errc::peer_violation when an area is misaligned or not in `map`; the text names it.
  static Result<RingAreas> locate(const RingConfig& config, const memory::MemoryMap& map);
  /// What of them a map that is translated lacks; false: it has something that must not be used so.
  static bool list_missing(const RingConfig& config, const memory::MemoryMap& map, std::vector<memory::Miss>& misses);
  /// Whether one of them has a byte in the range.
  static bool overlap(const RingConfig& config, const memory::IovaRange& range);
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
  indirect_too_long,
  readable_after_writable,
  chain_in_flight,     ///< a chain is made available again that was not used; seen behind an IOMMU only
  chain_without_use,   ///< a chain the device type cannot use: no writable part where one is due, or the like
  access_denied,       ///< the IOMMU does not let the device do that
  translation_missed,  ///< no fault: the chain can be taken once its addresses are known
};
std::string_view text(RingFault fault);

// Flags of a descriptor (2.7.5, 2.8.1), of the available ring (2.7.6) and of the used ring (2.7.8).
inline constexpr std::uint16_t kDescNext = 1;
inline constexpr std::uint16_t kDescWrite = 2;
inline constexpr std::uint16_t kDescIndirect = 4;
inline constexpr std::uint16_t kDescAvail = 1U << 7;
inline constexpr std::uint16_t kDescUsed = 1U << 15;
inline constexpr std::uint16_t kAvailNoInterrupt = 1;
inline constexpr std::uint16_t kUsedNoNotify = 1;

/// Offsets inside the available and used rings.
inline constexpr std::size_t kRingFlags = 0;
inline constexpr std::size_t kRingIndex = 2;
inline constexpr std::size_t kRingEntries = 4;

/// True when moving an index from `old_index` to `new_index` passes `event` (2.7.10).
constexpr bool passes_event(std::uint16_t event, std::uint16_t new_index, std::uint16_t old_index) {
  return static_cast<std::uint16_t>(new_index - event - 1) < static_cast<std::uint16_t>(new_index - old_index);
}

/// One descriptor of a split ring, read once. In a table that may be written by the other side at any time.
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

/// One entry of a used ring (2.7.8).
struct UsedElement {
  std::uint32_t id;
  std::uint32_t length;
};
static_assert(sizeof(UsedElement) == 8);

}  // namespace causeway::virtio

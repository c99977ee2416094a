// What a driver puts into a virtqueue and gets back from it, whatever the layout.
#pragma once

#include "memory/address.h"

#include <cstdint>

namespace causeway::virtio {

/// A buffer of guest memory as a driver names it.
struct DriverBuffer {
  memory::Iova address;
  std::uint32_t length;
};

/// A chain that the device has used.
struct UsedChain {
  std::uint64_t token;    ///< what was given to `add`
  std::uint32_t written;  ///< bytes the device says it wrote; with IN_ORDER all of the chain's, for one in a batch
};

/// Entries of an indirect table, where its user does not say otherwise.
inline constexpr std::uint32_t kIndirectEntries = 32;
/// Bytes of the area for indirect tables of a ring of `entries`.
constexpr std::size_t indirect_bytes(std::uint32_t entries, std::uint32_t table_entries = kIndirectEntries) {
  return std::size_t{16} * table_entries * entries;
}

/// Where a driver side may put its indirect tables: `indirect_bytes` bytes, aligned to 16. Value type.
struct IndirectArea {
  // NOLINTNEXTLINE(google-explicit-constructor): most users say only where.
  IndirectArea(memory::Iova where, std::uint32_t entries_each = kIndirectEntries)
      : at(where), table_entries(entries_each) {}
  memory::Iova at;
  std::uint32_t table_entries;  ///< the longest chain that goes into a table; longer ones go into the ring
};

}  // namespace causeway::virtio

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

/// Longest chain that a driver side puts into an indirect table of its own; longer ones go into the ring.
inline constexpr std::uint32_t kIndirectEntries = 32;
/// Bytes of the area for indirect tables of a ring of `entries`.
constexpr std::size_t indirect_bytes(std::uint32_t entries) {
  return std::size_t{16} * kIndirectEntries * entries;
}

}  // namespace causeway::virtio

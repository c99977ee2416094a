// Structures of the kernel's headers, read from bytes.
#pragma once

#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

namespace causeway::vfio {

/// The structure at `offset`; nothing when it is not wholly inside.
template <class Structure>
  requires std::is_trivially_copyable_v<Structure>
std::optional<Structure> load(std::span<const std::byte> bytes, std::size_t offset = 0) {
  if (offset > bytes.size() || bytes.size() - offset < sizeof(Structure)) return std::nullopt;
  Structure structure;
  std::memcpy(&structure, bytes.data() + offset, sizeof structure);
  return structure;
}

/// The structure's bytes, to be passed on.
template <class Structure>
  requires std::is_trivially_copyable_v<Structure>
std::span<const std::byte> bytes_of(const Structure& structure) {
  return std::as_bytes(std::span(&structure, 1));
}

}  // namespace causeway::vfio

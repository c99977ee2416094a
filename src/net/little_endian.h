// Numbers as they lie in commands of the control virtqueue: least significant byte first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace causeway::net {

/// Two bytes at `at`, which must lie inside `bytes`; so for all of these.
inline std::uint16_t le16(std::span<const std::byte> bytes, std::size_t at = 0) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[at]) | std::to_integer<unsigned>(bytes[at + 1])
                                                                               << 8);
}

inline std::uint32_t le32(std::span<const std::byte> bytes, std::size_t at = 0) {
  return le16(bytes, at) | static_cast<std::uint32_t>(le16(bytes, at + 2)) << 16;
}

inline std::uint64_t le64(std::span<const std::byte> bytes, std::size_t at = 0) {
  return le32(bytes, at) | static_cast<std::uint64_t>(le32(bytes, at + 4)) << 32;
}

}  // namespace causeway::net

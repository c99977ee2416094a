// Numbers as they lie in packets: most significant byte first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace causeway::net {

/// The byte at `at`, which must lie inside `bytes`; so for all of these.
inline std::uint8_t byte_at(std::span<const std::byte> bytes, std::size_t at) {
  return std::to_integer<std::uint8_t>(bytes[at]);
}

inline std::uint16_t be16(std::span<const std::byte> bytes, std::size_t at) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[at]) << 8 |
                                    std::to_integer<unsigned>(bytes[at + 1]));
}

inline void put_be16(std::span<std::byte> bytes, std::size_t at, std::uint16_t value) {
  bytes[at] = static_cast<std::byte>(value >> 8);
  bytes[at + 1] = static_cast<std::byte>(value & 0xff);
}

inline std::uint32_t be32(std::span<const std::byte> bytes, std::size_t at) {
  return static_cast<std::uint32_t>(be16(bytes, at)) << 16 | be16(bytes, at + 2);
}

inline void put_be32(std::span<std::byte> bytes, std::size_t at, std::uint32_t value) {
  put_be16(bytes, at, static_cast<std::uint16_t>(value >> 16));
  put_be16(bytes, at + 2, static_cast<std::uint16_t>(value & 0xffff));
}

}  // namespace causeway::net

// Ethernet addresses and headers, as far as a NIC and a switch look at them.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace causeway::net {

/// A MAC address. Value type.
struct MacAddress {
  std::array<std::uint8_t, 6> bytes{};

  constexpr bool operator==(const MacAddress&) const = default;
  constexpr bool is_multicast() const { return (bytes[0] & 1) != 0; }
  constexpr bool is_broadcast() const { return bytes == std::array<std::uint8_t, 6>{255, 255, 255, 255, 255, 255}; }
  constexpr bool is_zero() const { return bytes == std::array<std::uint8_t, 6>{}; }
  /// The address as a number below 2^48, first byte most significant.
  constexpr std::uint64_t number() const {
    std::uint64_t value = 0;
    for (const std::uint8_t byte : bytes) value = value << 8 | byte;
    return value;
  }

  /// From "52:54:00:12:34:56".
  static std::optional<MacAddress> parse(std::string_view text);
  std::string text() const;
};

/// The first bytes of every frame. No byte order: both fields of two bytes are big-endian arrays.
struct EthernetHeader {
  MacAddress destination;
  MacAddress source;
  std::array<std::uint8_t, 2> ether_type;

  constexpr std::uint16_t type() const { return static_cast<std::uint16_t>(ether_type[0] << 8 | ether_type[1]); }
  /// Two words are compared, where three comparisons by member would go byte by byte.
  bool operator==(const EthernetHeader& other) const { return std::memcmp(this, &other, sizeof other) == 0; }
};
static_assert(sizeof(EthernetHeader) == 14);

inline constexpr std::uint16_t kEtherTypeVlan = 0x8100;
inline constexpr std::uint16_t kEtherTypeIpv4 = 0x0800;
inline constexpr std::uint16_t kEtherTypeIpv6 = 0x86dd;
inline constexpr std::uint16_t kEtherTypeRarp = 0x8035;

}  // namespace causeway::net

// Where in a frame the addresses and ports lie that a receive hash is calculated over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace causeway::net {

enum class Transport : std::uint8_t { none, tcp, udp };

/// Offsets from the start of the frame; what they begin lies inside the bytes that were looked at.
struct HashLayout {
  bool is_ipv6 = false;
  bool has_extensions = false;            ///< IPv6 with extension headers
  Transport transport = Transport::none;  ///< none: another one, a fragment, or its ports were not in the bytes
  std::size_t source = 0;
  std::size_t destination = 0;
  std::size_t ports = 0;                     ///< of source and destination, 4 bytes; when there is a transport
  std::optional<std::size_t> home_address;   ///< the sender's, from a home address option (RFC 6275 section 6.3)
  std::optional<std::size_t> final_address;  ///< the receiver's, from a routing header of type 2 (section 6.4)
};

/// The layout of the frame that begins with `start`; nothing when it is neither IPv4 nor IPv6. Up to two VLAN tags are
/// stepped over.
std::optional<HashLayout> find_hash_layout(std::span<const std::byte> start);

}  // namespace causeway::net

// Where the headers of a packet lie that is to be cut into segments.
#pragma once

#include "net/ip_headers.h"
#include "virtio/net.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace causeway::net {

/// Offsets from the start of the frame; all of them, and the headers they begin, lie inside the frame.
struct PacketLayout {
  bool is_ipv6;
  std::uint8_t protocol;  ///< kProtocolTcp or kProtocolUdp
  std::size_t ip;
  std::size_t transport;
  std::size_t payload;

  std::size_t checksum() const { return transport + (protocol == kProtocolTcp ? 16 : 6); }
};

/// The layout of `frame`, sent with `header`, whose gso_type is one of TCP4, TCP6 and UDP_L4. Up to two VLAN tags, IPv4
/// options, and the hop-by-hop, destination and routing headers of IPv6 are stepped over. Nothing when the frame is not
/// what its header says: another protocol, a fragment, csum_start elsewhere than at the transport header, no payload;
/// nor when an IPv6 source route is still to be followed, since then the pseudo-header's address is not the header's.
std::optional<PacketLayout> find_layout(const virtio::NetHeader& header, std::span<const std::byte> frame);

}  // namespace causeway::net

// A number that is the same for all frames of a flow, in both directions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace causeway::net {

/// `start`: the first bytes of a frame, as many as there are up to 66 (Ethernet, two VLAN tags, IPv6, ports); more are
/// not read. IPv4 and IPv6 flows by addresses and TCP or UDP ports (fragments without ports), others by MAC addresses.
std::uint32_t flow_hash(std::span<const std::byte> start);

}  // namespace causeway::net

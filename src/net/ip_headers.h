// IP headers in a frame: what everything that looks behind the Ethernet header shares.
#pragma once

#include "net/big_endian.h"
#include "net/ethernet.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace causeway::net {

inline constexpr std::uint8_t kProtocolTcp = 6;
inline constexpr std::uint8_t kProtocolUdp = 17;

inline constexpr std::size_t kIpv4Header = 20;
inline constexpr std::uint16_t kIpv4FragmentBits = 0x3fff;  ///< "more fragments", and the offset

inline constexpr std::size_t kIpv6Header = 40;
inline constexpr std::uint8_t kHopByHop = 0;
inline constexpr std::uint8_t kRouting = 43;
inline constexpr std::uint8_t kDestinationOptions = 60;
inline constexpr int kMaxExtensions = 8;  ///< RFC 8200 recommends at most 4

/// Which IP a frame carries, and where its header begins; that header need not be inside the frame.
struct Network {
  bool is_ipv6;
  std::size_t at;
};

/// Steps over up to two VLAN tags. Nothing when the frame is neither IPv4 nor IPv6.
std::optional<Network> find_network(std::span<const std::byte> frame);

}  // namespace causeway::net

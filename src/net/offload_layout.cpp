#include "net/offload_layout.h"

#include "net/ip_headers.h"

namespace causeway::net {
namespace {

constexpr std::size_t kTcpHeader = 20;
constexpr std::size_t kUdpHeader = 8;

/// Where the header of `protocol` begins behind the IPv4 header at `ip`; it may be outside the frame.
std::optional<std::size_t> behind_ipv4(std::span<const std::byte> frame, std::size_t ip, std::uint8_t protocol) {
  if (frame.size() < ip + kIpv4Header || byte_at(frame, ip) >> 4 != 4) return std::nullopt;
  const std::size_t length = 4 * (byte_at(frame, ip) & std::size_t{15});
  const bool is_fragment = (be16(frame, ip + 6) & kIpv4FragmentBits) != 0;
  if (length < kIpv4Header || is_fragment || byte_at(frame, ip + 9) != protocol) return std::nullopt;
  return ip + length;
}

std::optional<std::size_t> behind_ipv6(std::span<const std::byte> frame, std::size_t ip, std::uint8_t protocol) {
  if (frame.size() < ip + kIpv6Header || byte_at(frame, ip) >> 4 != 6) return std::nullopt;
  std::uint8_t next = byte_at(frame, ip + 6);
  std::size_t at = ip + kIpv6Header;
  for (int headers = 0; headers < kMaxExtensions; ++headers) {
    if (next == protocol) return at;
    if (next != kHopByHop && next != kRouting && next != kDestinationOptions) return std::nullopt;
    if (frame.size() < at + 8) return std::nullopt;
    const bool is_still_routed = next == kRouting && byte_at(frame, at + 3) != 0;
    if (is_still_routed) return std::nullopt;
    next = byte_at(frame, at);
    at += 8 * (byte_at(frame, at + 1) + std::size_t{1});
  }
  return std::nullopt;
}

/// Length of the transport header at `at`; nothing when it is not all inside the frame.
std::optional<std::size_t> transport_length(std::span<const std::byte> frame, std::size_t at, std::uint8_t protocol) {
  const std::size_t least = protocol == kProtocolTcp ? kTcpHeader : kUdpHeader;
  if (frame.size() < at + least) return std::nullopt;
  const std::size_t length = protocol == kProtocolTcp ? std::size_t{4} * (byte_at(frame, at + 12) >> 4) : least;
  if (length < least || frame.size() < at + length) return std::nullopt;
  return length;
}

}  // namespace

std::optional<PacketLayout> find_layout(const virtio::NetHeader& header, std::span<const std::byte> frame) {
  const auto type = static_cast<std::uint8_t>(header.gso_type & ~virtio::kGsoEcn);
  const auto network = find_network(frame);
  if (!network) return std::nullopt;
  // A UDP type says nothing of the version of IP.
  if (type != virtio::kGsoUdpL4 && network->is_ipv6 != (type == virtio::kGsoTcp6)) return std::nullopt;
  const std::uint8_t protocol = type == virtio::kGsoUdpL4 ? kProtocolUdp : kProtocolTcp;
  const auto transport = network->is_ipv6 ? behind_ipv6(frame, network->at, protocol)  //
                                          : behind_ipv4(frame, network->at, protocol);
  if (!transport || *transport != header.csum_start) return std::nullopt;
  const auto length = transport_length(frame, *transport, protocol);
  if (!length || *transport + *length == frame.size()) return std::nullopt;
  return PacketLayout{.is_ipv6 = network->is_ipv6,
                      .protocol = protocol,
                      .ip = network->at,
                      .transport = *transport,
                      .payload = *transport + *length};
}

}  // namespace causeway::net

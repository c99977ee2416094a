#include "net/hash_layout.h"

#include "net/ip_headers.h"

#include <algorithm>

namespace causeway::net {
namespace {

constexpr std::size_t kIpv6Address = 16;
constexpr std::size_t kPorts = 4;

constexpr std::uint8_t kFragment = 44;
constexpr std::uint8_t kAuthentication = 51;

constexpr std::uint8_t kOptionPad1 = 0;
constexpr std::uint8_t kOptionHomeAddress = 0xc9;
constexpr std::uint8_t kRoutingHome = 2;

using Bytes = std::span<const std::byte>;

void set_transport(HashLayout& layout, Bytes bytes, std::uint8_t protocol, std::size_t at) {
  if (protocol != kProtocolTcp && protocol != kProtocolUdp) return;
  if (bytes.size() < at + kPorts) return;
  layout.transport = protocol == kProtocolTcp ? Transport::tcp : Transport::udp;
  layout.ports = at;
}

std::optional<HashLayout> find_ipv4(Bytes bytes, std::size_t at) {
  if (bytes.size() < at + kIpv4Header || byte_at(bytes, at) >> 4 != 4) return std::nullopt;
  const std::size_t header = std::size_t{4} * (byte_at(bytes, at) & 15);
  if (header < kIpv4Header) return std::nullopt;
  HashLayout layout;
  layout.source = at + 12;
  layout.destination = at + 16;
  const bool is_fragment = (be16(bytes, at + 6) & kIpv4FragmentBits) != 0;
  if (!is_fragment) set_transport(layout, bytes, byte_at(bytes, at + 9), at + header);
  return layout;
}

/// The home address option among those of a destination options header, which lies in `bytes` from `at` to `end`.
std::optional<std::size_t> find_home_address(Bytes bytes, std::size_t at, std::size_t end) {
  at += 2;
  while (at < end) {
    if (byte_at(bytes, at) == kOptionPad1) {
      ++at;
      continue;
    }
    if (at + 2 > end) return std::nullopt;
    const std::size_t length = byte_at(bytes, at + 1);
    if (at + 2 + length > end) return std::nullopt;
    if (byte_at(bytes, at) == kOptionHomeAddress && length == kIpv6Address) return at + 2;
    at += 2 + length;
  }
  return std::nullopt;
}

/// Takes from the extension header `kind`, in `bytes` from `at` to `end`, the address that it names, if it does.
void note_address(HashLayout& layout, Bytes bytes, std::uint8_t kind, std::size_t at, std::size_t end) {
  if (kind == kDestinationOptions && !layout.home_address) {
    layout.home_address = find_home_address(bytes, at, end);
  } else if (kind == kRouting && end - at == 8 + kIpv6Address && byte_at(bytes, at + 2) == kRoutingHome) {
    layout.final_address = at + 8;
  }
}

std::optional<HashLayout> find_ipv6(Bytes bytes, std::size_t ip) {
  if (bytes.size() < ip + kIpv6Header || byte_at(bytes, ip) >> 4 != 6) return std::nullopt;
  HashLayout layout;
  layout.is_ipv6 = true;
  layout.source = ip + 8;
  layout.destination = ip + 24;
  std::uint8_t next = byte_at(bytes, ip + 6);
  std::size_t at = ip + kIpv6Header;
  for (int headers = 0; headers < kMaxExtensions; ++headers) {
    const bool is_options = next == kHopByHop || next == kRouting || next == kDestinationOptions;
    if (next == kFragment) {
      layout.has_extensions = true;
      return layout;
    }
    if (!is_options && next != kAuthentication) break;
    layout.has_extensions = true;
    if (bytes.size() < at + 8) return layout;
    // The authentication header counts in words of 4 bytes, and less two of them (RFC 4302 section 2.2).
    const std::size_t length = byte_at(bytes, at + 1);
    const std::size_t end = at + (is_options ? 8 * (length + 1) : 4 * (length + 2));
    if (bytes.size() < end) return layout;
    note_address(layout, bytes, next, at, end);
    next = byte_at(bytes, at);
    at = end;
  }
  set_transport(layout, bytes, next, at);
  return layout;
}

}  // namespace

std::optional<HashLayout> find_hash_layout(Bytes start) {
  const auto network = find_network(start);
  if (!network) return std::nullopt;
  return network->is_ipv6 ? find_ipv6(start, network->at) : find_ipv4(start, network->at);
}

}  // namespace causeway::net

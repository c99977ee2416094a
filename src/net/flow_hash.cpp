#include "net/flow_hash.h"

#include "net/big_endian.h"
#include "net/ethernet.h"

#include <cstring>

namespace causeway::net {
namespace {

constexpr std::uint8_t kTcp = 6;
constexpr std::uint8_t kUdp = 17;
constexpr std::uint16_t kEtherTypeServiceVlan = 0x88a8;
// The fragment offset of IPv4 and its "more fragments" bit: only whole datagrams have ports at a known place.
constexpr std::uint16_t kFragmentBits = 0x3fff;

std::uint64_t mix(std::uint64_t value) {
  value ^= value >> 32;
  value *= 0x9e3779b97f4a7c15ULL;
  return value ^ value >> 29;
}

/// Up to 8 bytes as a number; which end comes first does not matter to a hash.
std::uint64_t load(std::span<const std::byte> bytes, std::size_t at, std::size_t size) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.subspan(at, size).data(), size);
  return value;
}

/// Hash of an address or port of `size` bytes (up to 16); the sum of two such does not depend on which came first.
std::uint64_t part(std::span<const std::byte> bytes, std::size_t at, std::size_t size) {
  if (size <= sizeof(std::uint64_t)) return mix(load(bytes, at, size) + size);
  const std::size_t half = size / 2;
  return mix(mix(load(bytes, at, half) + size) + load(bytes, at + half, half));
}

std::uint64_t both(std::span<const std::byte> bytes, std::size_t first, std::size_t second, std::size_t size) {
  return part(bytes, first, size) + part(bytes, second, size);
}

std::uint64_t ports(std::span<const std::byte> bytes, std::uint8_t protocol, std::size_t at) {
  if ((protocol != kTcp && protocol != kUdp) || bytes.size() < at + 4) return protocol;
  return both(bytes, at, at + 2, 2) + protocol;
}

std::uint64_t hash_ipv4(std::span<const std::byte> bytes, std::size_t at) {
  const std::uint64_t addresses = both(bytes, at + 12, at + 16, 4);
  if ((be16(bytes, at + 6) & kFragmentBits) != 0) return addresses;
  const std::size_t header = 4 * (std::to_integer<std::size_t>(bytes[at]) & 15);
  return addresses + ports(bytes, std::to_integer<std::uint8_t>(bytes[at + 9]), at + header);
}

std::uint64_t hash_ipv6(std::span<const std::byte> bytes, std::size_t at) {
  return both(bytes, at + 8, at + 24, 16) + ports(bytes, std::to_integer<std::uint8_t>(bytes[at + 6]), at + 40);
}

}  // namespace

std::uint32_t flow_hash(std::span<const std::byte> start) {
  if (start.size() < sizeof(EthernetHeader)) return 0;
  std::size_t at = 12;
  std::uint16_t type = be16(start, at);
  for (int tags = 0; tags < 2 && (type == kEtherTypeVlan || type == kEtherTypeServiceVlan); ++tags) {
    if (start.size() < at + 6) break;
    at += 4;
    type = be16(start, at);
  }
  at += 2;
  std::uint64_t hash = 0;
  if (type == kEtherTypeIpv4 && start.size() >= at + 20) {
    hash = hash_ipv4(start, at);
  } else if (type == kEtherTypeIpv6 && start.size() >= at + 40) {
    hash = hash_ipv6(start, at);
  } else {
    hash = both(start, 0, 6, 6);
  }
  return static_cast<std::uint32_t>(mix(hash) >> 16);
}

}  // namespace causeway::net

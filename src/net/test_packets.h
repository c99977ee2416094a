// Packets for the tests of this module, and a second opinion on their checksums.
#pragma once

#include "net/big_endian.h"
#include "net/ethernet.h"
#include "virtio/net.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace causeway::net::testing {

inline constexpr std::uint8_t kTcp = 6;
inline constexpr std::uint8_t kUdp = 17;
inline constexpr std::uint16_t kFirstId = 0xfffe;            // so that it wraps
inline constexpr std::uint32_t kFirstSequence = 0xfffffe00;  // likewise

/// What a packet consists of.
struct PacketShape {
  std::size_t vlan_tags = 0;
  bool is_ipv6 = false;
  std::size_t ip_option_words = 0;  ///< IPv4, of 4 bytes
  /// IPv6, by their numbers, of 8 bytes and then 16, 24...
  std::vector<std::uint8_t> extension_headers{};  // NOLINT(readability-redundant-member-init): without, designated
                                                  // initialisers that leave it out are warned of
  std::uint8_t protocol = kTcp;
  std::size_t tcp_option_words = 0;
  std::uint8_t tcp_flags = 0x18;
  std::size_t payload = 100;
};

struct Packet {
  std::vector<std::byte> bytes;
  bool is_ipv6;
  std::uint8_t protocol;
  std::size_t ip;
  std::size_t transport;
  std::size_t payload;

  std::size_t checksum() const { return transport + (protocol == kTcp ? 16 : 6); }
};

/// The sum of RFC 1071 done as its text says: big-endian words, carries brought round at once.
inline std::uint16_t simple_sum(std::span<const std::byte> bytes, std::uint16_t start = 0) {
  std::uint32_t sum = start;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    sum += std::to_integer<std::uint32_t>(bytes[i]) << (i % 2 == 0 ? 8 : 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return static_cast<std::uint16_t>(sum);
}

inline std::uint16_t pseudo_header_sum(const Packet& packet) {
  std::vector<std::byte> pseudo;
  const auto addresses =
      std::span(packet.bytes).subspan(packet.ip + (packet.is_ipv6 ? 8 : 12), packet.is_ipv6 ? 32 : 8);
  pseudo.assign(addresses.begin(), addresses.end());
  pseudo.resize(pseudo.size() + 8);
  put_be32(pseudo, pseudo.size() - 8, static_cast<std::uint32_t>(packet.bytes.size() - packet.transport));
  put_be32(pseudo, pseudo.size() - 4, packet.protocol);
  return simple_sum(pseudo);
}

/// The transport checksum is there and right.
inline bool has_good_checksum(const Packet& packet) {
  if (packet.protocol == kUdp && be16(packet.bytes, packet.checksum()) == 0) return false;
  return simple_sum(std::span(packet.bytes).subspan(packet.transport), pseudo_header_sum(packet)) == 0xffff;
}

inline bool has_good_ip_checksum(const Packet& packet) {
  const auto header = std::span(packet.bytes).subspan(packet.ip);
  return simple_sum(header.first(4 * (std::to_integer<std::size_t>(header[0]) & 15))) == 0xffff;
}

inline void append_ip(Packet& packet, const PacketShape& shape) {
  auto& bytes = packet.bytes;
  packet.ip = bytes.size();
  bytes.resize(bytes.size() + (shape.is_ipv6 ? 40 : 20 + 4 * shape.ip_option_words));
  for (std::size_t i = 0; i < (shape.is_ipv6 ? 32U : 8U); ++i)
    bytes[packet.ip + (shape.is_ipv6 ? 8 : 12) + i] = static_cast<std::byte>(0x20 + 3 * i);
  if (!shape.is_ipv6) {
    bytes[packet.ip] = static_cast<std::byte>(0x45 + shape.ip_option_words);
    put_be16(bytes, packet.ip + 4, kFirstId);
    put_be16(bytes, packet.ip + 6, 0x4000);  // do not fragment
    bytes[packet.ip + 8] = std::byte{64};
    bytes[packet.ip + 9] = std::byte{shape.protocol};
    for (std::size_t i = 20; i < 20 + 4 * shape.ip_option_words; ++i) bytes[packet.ip + i] = std::byte{1};
    return;
  }
  bytes[packet.ip] = std::byte{0x60};
  std::size_t next = packet.ip + 6;
  for (std::size_t i = 0; i < shape.extension_headers.size(); ++i) {
    bytes[next] = std::byte{shape.extension_headers[i]};
    next = bytes.size();
    bytes.resize(bytes.size() + 8 * (i + 1));
    bytes[next + 1] = static_cast<std::byte>(i);
  }
  bytes[next] = std::byte{shape.protocol};
}

/// A packet whose transport checksum holds the pseudo-header's sum, as a driver leaves it to the device.
inline Packet make_packet(const PacketShape& shape) {
  Packet packet{
      .bytes = {}, .is_ipv6 = shape.is_ipv6, .protocol = shape.protocol, .ip = 0, .transport = 0, .payload = 0};
  auto& bytes = packet.bytes;
  for (const int byte : {0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2}) bytes.push_back(static_cast<std::byte>(byte));
  const auto append16 = [&bytes](std::uint16_t value) {
    bytes.resize(bytes.size() + 2);
    put_be16(bytes, bytes.size() - 2, value);
  };
  for (std::size_t tag = 0; tag < shape.vlan_tags; ++tag) {
    append16(tag + 1 < shape.vlan_tags ? 0x88a8 : kEtherTypeVlan);
    append16(static_cast<std::uint16_t>(7 + tag));
  }
  append16(shape.is_ipv6 ? kEtherTypeIpv6 : kEtherTypeIpv4);
  append_ip(packet, shape);
  packet.transport = bytes.size();
  bytes.resize(bytes.size() + (shape.protocol == kTcp ? 20 + 4 * shape.tcp_option_words : 8));
  put_be16(bytes, packet.transport, 40000);
  put_be16(bytes, packet.transport + 2, 443);
  if (shape.protocol == kTcp) {
    put_be32(bytes, packet.transport + 4, kFirstSequence);
    bytes[packet.transport + 12] = static_cast<std::byte>((5 + shape.tcp_option_words) << 4);
    bytes[packet.transport + 13] = std::byte{shape.tcp_flags};
  }
  packet.payload = bytes.size();
  for (std::size_t i = 0; i < shape.payload; ++i) bytes.push_back(static_cast<std::byte>(7 * i + i / 251));
  if (bytes.size() >= packet.transport + 8) put_be16(bytes, packet.checksum(), pseudo_header_sum(packet));
  return packet;
}

/// The header with which a driver sends `packet`; gso_size 0: only the checksum is left to the device.
inline virtio::NetHeader header_for(const Packet& packet, std::uint16_t gso_size = 0) {
  const std::uint8_t tcp = packet.is_ipv6 ? virtio::kGsoTcp6 : virtio::kGsoTcp4;
  const std::uint8_t type = packet.protocol == kTcp ? tcp : virtio::kGsoUdpL4;
  return {.flags = virtio::kNetHeaderNeedsCsum,
          .gso_type = gso_size == 0 ? virtio::kGsoNone : type,
          .hdr_len = static_cast<std::uint16_t>(packet.payload),
          .gso_size = gso_size,
          .csum_start = static_cast<std::uint16_t>(packet.transport),
          .csum_offset = static_cast<std::uint16_t>(packet.checksum() - packet.transport),
          .num_buffers = 0};
}

}  // namespace causeway::net::testing

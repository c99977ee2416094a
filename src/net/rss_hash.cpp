#include "net/rss_hash.h"

#include "net/hash_layout.h"

#include <algorithm>

namespace causeway::net {

using virtio::HashReport;

Toeplitz::Toeplitz(std::span<const std::byte> key) {
  std::array<std::byte, kMaxKey> whole{};
  std::ranges::copy(key.first(std::min(key.size(), kMaxKey)), whole.begin());
  for (std::size_t place = 0; place < nibbles_.size(); ++place) {
    // The 35 bits of the key under this half byte: four windows of 32 bits, each one bit further.
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < 5; ++i) bits = bits << 8 | std::to_integer<std::uint64_t>(whole[place / 2 + i]);
    if (place % 2 == 1) bits <<= 4;
    for (unsigned value = 0; value < 16; ++value) {
      std::uint32_t sum = 0;
      for (unsigned bit = 0; bit < 4; ++bit) {
        // The most significant bit of the input meets the first window.
        if ((value >> (3 - bit) & 1) != 0) sum ^= static_cast<std::uint32_t>(bits >> (8 - bit) & 0xffffffff);
      }
      nibbles_[place][value] = sum;
    }
  }
}

std::uint32_t Toeplitz::hash(std::span<const std::byte> input, std::size_t at) const {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < input.size(); ++i) {
    const auto value = std::to_integer<std::size_t>(input[i]);
    sum ^= nibbles_[2 * (at + i)][value >> 4] ^ nibbles_[2 * (at + i) + 1][value & 15];
  }
  return sum;
}

/// A packet's parts that are hashed.
struct RssHash::Packet {
  HashLayout layout;
  std::span<const std::byte> start;
};

std::uint32_t RssHash::over(const Packet& packet, bool with_ports) const {
  const HashLayout& layout = packet.layout;
  const std::size_t size = layout.is_ipv6 ? 16 : 4;
  std::uint32_t sum = toeplitz_.hash(packet.start.subspan(layout.source, size));
  sum ^= toeplitz_.hash(packet.start.subspan(layout.destination, size), size);
  if (with_ports) sum ^= toeplitz_.hash(packet.start.subspan(layout.ports, 4), 2 * size);
  return sum;
}

HashResult RssHash::compute_ipv4(const Packet& packet) const {
  const Transport transport = packet.layout.transport;
  if (transport == Transport::tcp && has(virtio::kHashTcp4)) return {over(packet, true), HashReport::tcp4};
  if (transport == Transport::udp && has(virtio::kHashUdp4)) return {over(packet, true), HashReport::udp4};
  if (has(virtio::kHashIpv4)) return {over(packet, false), HashReport::ipv4};
  return {};
}

HashResult RssHash::compute_ipv6(const Packet& packet) const {
  const Transport transport = packet.layout.transport;
  if (packet.layout.has_extensions) {
    // Addresses may be those that extension headers name instead (5.1.6.4.3.4).
    Packet named = packet;
    named.layout.source = packet.layout.home_address.value_or(packet.layout.source);
    named.layout.destination = packet.layout.final_address.value_or(packet.layout.destination);
    if (transport == Transport::tcp && has(virtio::kHashTcp6Ex)) return {over(named, true), HashReport::tcp6_ex};
    if (transport == Transport::udp && has(virtio::kHashUdp6Ex)) return {over(named, true), HashReport::udp6_ex};
    if (has(virtio::kHashIpv6Ex)) return {over(named, false), HashReport::ipv6_ex};
  }
  if (transport == Transport::tcp && has(virtio::kHashTcp6)) return {over(packet, true), HashReport::tcp6};
  if (transport == Transport::udp && has(virtio::kHashUdp6)) return {over(packet, true), HashReport::udp6};
  if (has(virtio::kHashIpv6)) return {over(packet, false), HashReport::ipv6};
  return {};
}

HashResult RssHash::compute(std::span<const std::byte> start) const {
  if (!is_used()) return {};
  const auto layout = find_hash_layout(start.first(std::min(start.size(), kStartBytes)));
  if (!layout) return {};
  const Packet packet{.layout = *layout, .start = start};
  return layout->is_ipv6 ? compute_ipv6(packet) : compute_ipv4(packet);
}

}  // namespace causeway::net

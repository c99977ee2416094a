#include "net/offload.h"

#include "net/ethernet.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace causeway::net {
namespace {

using virtio::FeatureSet;
using virtio::NetFeature;
using virtio::NetHeader;

constexpr std::uint8_t kTcp = 6;
constexpr std::uint8_t kUdp = 17;
constexpr std::size_t kTcpHeader = 20;
constexpr std::size_t kUdpHeader = 8;
constexpr std::uint8_t kTcpFin = 0x01;
constexpr std::uint8_t kTcpPsh = 0x08;
constexpr std::uint8_t kTcpCwr = 0x80;
constexpr std::uint16_t kEtherTypeServiceVlan = 0x88a8;
/// Smaller segments are refused: no stack uses them, and a guest could make one frame cost 65,000.
constexpr std::uint16_t kLeastSegment = 48;

constexpr std::uint8_t gso_kind(const NetHeader& header) {
  return static_cast<std::uint8_t>(header.gso_type & ~virtio::kGsoEcn);
}

std::uint16_t be16(std::span<const std::byte> bytes, std::size_t at) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[at]) << 8 |
                                    std::to_integer<unsigned>(bytes[at + 1]));
}

void put_be16(std::span<std::byte> bytes, std::size_t at, std::uint16_t value) {
  bytes[at] = static_cast<std::byte>(value >> 8);
  bytes[at + 1] = static_cast<std::byte>(value & 0xff);
}

std::uint32_t be32(std::span<const std::byte> bytes, std::size_t at) {
  return static_cast<std::uint32_t>(be16(bytes, at)) << 16 | be16(bytes, at + 2);
}

void put_be32(std::span<std::byte> bytes, std::size_t at, std::uint32_t value) {
  put_be16(bytes, at, static_cast<std::uint16_t>(value >> 16));
  put_be16(bytes, at + 2, static_cast<std::uint16_t>(value & 0xffff));
}

/// Where the headers of a frame lie. All of them are inside the frame.
struct Layout {
  bool is_ipv6;
  std::size_t ip;  ///< of the IP header
  std::size_t transport;
  std::size_t payload;
  std::uint8_t protocol;
};

std::optional<std::size_t> find_ip(std::span<const std::byte> frame, bool want_ipv6) {
  std::size_t at = 12;
  for (int tags = 0; tags < 3; ++tags, at += 4) {
    if (frame.size() < at + 2) return std::nullopt;
    const std::uint16_t type = be16(frame, at);
    if (type == (want_ipv6 ? kEtherTypeIpv6 : kEtherTypeIpv4)) return at + 2;
    if (type != kEtherTypeVlan && type != kEtherTypeServiceVlan) return std::nullopt;
  }
  return std::nullopt;
}

/// The sender says where the transport header is (csum_start); what lies before it is checked, not believed.
std::optional<Layout> find_layout(const NetHeader& header, std::span<const std::byte> frame) {
  const std::uint8_t kind = gso_kind(header);
  Layout layout{.is_ipv6 = kind == virtio::kGsoTcp6,
                .ip = 0,
                .transport = header.csum_start,
                .payload = 0,
                .protocol = kind == virtio::kGsoUdpL4 ? kUdp : kTcp};
  auto ip = find_ip(frame, layout.is_ipv6);
  if (!ip && kind == virtio::kGsoUdpL4) {
    layout.is_ipv6 = true;
    ip = find_ip(frame, true);
  }
  if (!ip) return std::nullopt;
  layout.ip = *ip;
  const std::size_t ip_header = layout.is_ipv6 ? 40 : 20;
  const std::size_t transport_header = layout.protocol == kTcp ? kTcpHeader : kUdpHeader;
  if (layout.transport < layout.ip + ip_header || frame.size() < layout.transport + transport_header)
    return std::nullopt;
  const std::size_t length =
      layout.protocol == kTcp ? 4 * (std::to_integer<std::size_t>(frame[layout.transport + 12]) >> 4) : kUdpHeader;
  layout.payload = layout.transport + length;
  if (length < transport_header || layout.payload >= frame.size()) return std::nullopt;
  return layout;
}

/// The sum over the pseudo-header of a segment whose transport part has `length` bytes.
std::uint16_t pseudo_sum(std::span<const std::byte> frame, const Layout& layout, std::size_t length) {
  const std::size_t address = layout.is_ipv6 ? 16 : 4;
  const auto addresses = frame.subspan(layout.ip + (layout.is_ipv6 ? 8 : 12), 2 * address);
  const std::byte tail[4] = {std::byte{0}, std::byte{layout.protocol}, static_cast<std::byte>(length >> 8),
                             static_cast<std::byte>(length & 0xff)};
  return internet_sum(tail, internet_sum(addresses));
}

std::uint16_t checksum_of(std::span<const std::byte> bytes, std::uint16_t sum, std::uint8_t protocol) {
  const auto value = static_cast<std::uint16_t>(~internet_sum(bytes, sum));
  // For UDP a checksum of zero means that there is none (RFC 768).
  return protocol == kUdp && value == 0 ? std::uint16_t{0xffff} : value;
}

/// Completes a checksum as NEEDS_CSUM asks: the field holds the pseudo-header's sum already.
void complete_checksum(const NetHeader& header, std::span<std::byte> frame) {
  const std::size_t field = std::size_t{header.csum_start} + header.csum_offset;
  const auto value = static_cast<std::uint16_t>(~internet_sum(frame.subspan(header.csum_start)));
  const bool is_udp = header.csum_offset == 6;
  put_be16(frame, field, is_udp && value == 0 ? std::uint16_t{0xffff} : value);
}

/// Writes what differs from segment to segment into the headers of one.
struct SegmentPlace {
  std::uint16_t number;
  std::size_t offset;  ///< of its payload in the whole payload
  bool is_last;
};

void fix_headers(std::span<std::byte> segment, const Layout& layout, const SegmentPlace& place) {
  if (layout.is_ipv6) {
    put_be16(segment, layout.ip + 4, static_cast<std::uint16_t>(segment.size() - layout.ip - 40));
  } else {
    put_be16(segment, layout.ip + 2, static_cast<std::uint16_t>(segment.size() - layout.ip));
    put_be16(segment, layout.ip + 4, static_cast<std::uint16_t>(be16(segment, layout.ip + 4) + place.number));
    put_be16(segment, layout.ip + 10, 0);
    const std::size_t header = std::min<std::size_t>(4 * (std::to_integer<std::size_t>(segment[layout.ip]) & 15),
                                                     layout.transport - layout.ip);
    put_be16(segment, layout.ip + 10, static_cast<std::uint16_t>(~internet_sum(segment.subspan(layout.ip, header))));
  }
  if (layout.protocol == kUdp) {
    put_be16(segment, layout.transport + 4, static_cast<std::uint16_t>(segment.size() - layout.transport));
    return;
  }
  put_be32(segment, layout.transport + 4,
           be32(segment, layout.transport + 4) + static_cast<std::uint32_t>(place.offset));
  std::byte& flags = segment[layout.transport + 13];
  if (!place.is_last) flags &= std::byte{static_cast<std::uint8_t>(~(kTcpFin | kTcpPsh) & 0xff)};
  if (place.number != 0) flags &= std::byte{static_cast<std::uint8_t>(~kTcpCwr & 0xff)};
}

NetHeader checksum_header(const Layout& layout) {
  return {.flags = virtio::kNetHeaderNeedsCsum,
          .gso_type = virtio::kGsoNone,
          .hdr_len = 0,
          .gso_size = 0,
          .csum_start = static_cast<std::uint16_t>(layout.transport),
          .csum_offset = static_cast<std::uint16_t>(layout.protocol == kTcp ? 16 : 6),
          .num_buffers = 1};
}

bool takes_gso(std::uint8_t kind, FeatureSet receiver) {
  switch (kind) {
    case virtio::kGsoTcp4:
      return receiver.has(NetFeature::guest_tso4);
    case virtio::kGsoTcp6:
      return receiver.has(NetFeature::guest_tso6);
    case virtio::kGsoUdpL4:
      return receiver.has(NetFeature::guest_uso4) && receiver.has(NetFeature::guest_uso6);
    default:
      return false;
  }
}

bool sends_gso(std::uint8_t kind, FeatureSet sender) {
  switch (kind) {
    case virtio::kGsoTcp4:
      return sender.has(NetFeature::host_tso4);
    case virtio::kGsoTcp6:
      return sender.has(NetFeature::host_tso6);
    case virtio::kGsoUdpL4:
      return sender.has(NetFeature::host_uso);
    default:
      return false;
  }
}

}  // namespace

HeaderFault check_offloads(const NetHeader& header, std::uint32_t frame_length, FeatureSet negotiated) {
  const bool needs_csum = (header.flags & virtio::kNetHeaderNeedsCsum) != 0;
  if (needs_csum) {
    if (!negotiated.has(NetFeature::csum)) return HeaderFault::not_negotiated;
    if (std::uint32_t{header.csum_start} + header.csum_offset + 2 > frame_length)
      return HeaderFault::csum_outside_frame;
  }
  if (header.gso_type == virtio::kGsoNone) return HeaderFault::none;
  const std::uint8_t kind = gso_kind(header);
  if (kind != virtio::kGsoTcp4 && kind != virtio::kGsoTcp6 && kind != virtio::kGsoUdpL4)
    return HeaderFault::bad_gso_type;
  if (!sends_gso(kind, negotiated)) return HeaderFault::not_negotiated;
  if ((header.gso_type & virtio::kGsoEcn) != 0 && !negotiated.has(NetFeature::host_ecn))
    return HeaderFault::not_negotiated;
  if (header.gso_size == 0) return HeaderFault::gso_without_size;
  return needs_csum ? HeaderFault::none : HeaderFault::gso_without_checksum;
}

bool lacks_offloads(const NetHeader& header, FeatureSet receiver) {
  if (header.flags != 0 && !receiver.has(NetFeature::guest_csum)) return true;
  if (header.gso_type == virtio::kGsoNone) return false;
  if ((header.gso_type & virtio::kGsoEcn) != 0 && !receiver.has(NetFeature::guest_ecn)) return true;
  return !takes_gso(gso_kind(header), receiver);
}

std::uint16_t internet_sum(std::span<const std::byte> bytes, std::uint16_t start) {
  std::uint64_t sum = start;
  std::size_t at = 0;
  for (; at + 1 < bytes.size(); at += 2) sum += be16(bytes, at);
  if (at < bytes.size()) sum += std::to_integer<std::uint64_t>(bytes[at]) << 8;
  while ((sum >> 16) != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}

bool Resolver::resolve(const NetHeader& header, std::span<std::byte> frame, FeatureSet receiver, const Emit& emit) {
  const bool receiver_checks = receiver.has(NetFeature::guest_csum);
  if (header.gso_type != virtio::kGsoNone) return segment(header, frame, receiver_checks, emit);
  // What remains is a checksum for a receiver without GUEST_CSUM, or only the note that the checksum is known good.
  if ((header.flags & virtio::kNetHeaderNeedsCsum) != 0) complete_checksum(header, frame);
  emit(NetHeader{}, frame);
  return true;
}

bool Resolver::segment(const NetHeader& header, std::span<const std::byte> frame, bool receiver_checks,
                       const Emit& emit) {
  const auto layout = find_layout(header, frame);
  if (!layout || header.gso_size < kLeastSegment) return false;
  const auto payload = frame.subspan(layout->payload);
  const std::size_t field = layout->transport + (layout->protocol == kTcp ? 16U : 6U);
  std::uint16_t number = 0;
  for (std::size_t offset = 0; offset < payload.size(); offset += header.gso_size, ++number) {
    const std::size_t count = std::min<std::size_t>(header.gso_size, payload.size() - offset);
    segment_.assign(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(layout->payload));
    segment_.insert(segment_.end(), payload.begin() + static_cast<std::ptrdiff_t>(offset),
                    payload.begin() + static_cast<std::ptrdiff_t>(offset + count));
    const std::span<std::byte> bytes(segment_);
    fix_headers(bytes, *layout, {.number = number, .offset = offset, .is_last = offset + count == payload.size()});
    const auto transport = bytes.subspan(layout->transport);
    const std::uint16_t pseudo = pseudo_sum(bytes, *layout, transport.size());
    if (receiver_checks) {
      put_be16(bytes, field, pseudo);
      emit(checksum_header(*layout), bytes);
    } else {
      put_be16(bytes, field, 0);
      put_be16(bytes, field, checksum_of(transport, pseudo, layout->protocol));
      emit(NetHeader{}, bytes);
    }
  }
  return true;
}

}  // namespace causeway::net

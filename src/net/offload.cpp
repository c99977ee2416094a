#include "net/offload.h"

#include "net/big_endian.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace causeway::net {
namespace {

using virtio::FeatureSet;
using virtio::NetFeature;
using virtio::NetHeader;

constexpr std::uint8_t kTcpFin = 0x01;
constexpr std::uint8_t kTcpPsh = 0x08;
constexpr std::uint8_t kTcpCwr = 0x80;
constexpr std::uint16_t kTcpChecksum = 16;
constexpr std::uint16_t kUdpChecksum = 6;
constexpr std::size_t kTcpHeader = 20;
constexpr std::size_t kUdpHeader = 8;
constexpr std::size_t kLongestIp = 65535;  // of IPv4 its header too, of IPv6 not

constexpr std::uint8_t gso_kind(const NetHeader& header) {
  return static_cast<std::uint8_t>(header.gso_type & ~virtio::kGsoEcn);
}

/// The sum over the pseudo-header of a segment whose transport part has `length` bytes.
std::uint16_t pseudo_sum(std::span<const std::byte> frame, const PacketLayout& layout, std::size_t length) {
  const std::size_t address = layout.is_ipv6 ? 16 : 4;
  const auto addresses = frame.subspan(layout.ip + (layout.is_ipv6 ? 8 : 12), 2 * address);
  const std::byte tail[4] = {std::byte{0}, std::byte{layout.protocol}, static_cast<std::byte>(length >> 8),
                             static_cast<std::byte>(length & 0xff)};
  return internet_sum(tail, internet_sum(addresses));
}

/// What a checksum field must hold for `sum` over everything it covers.
std::uint16_t to_checksum(std::uint16_t sum, bool is_udp) {
  const auto value = static_cast<std::uint16_t>(~sum);
  // For UDP a checksum of zero means that there is none (RFC 768).
  return is_udp && value == 0 ? std::uint16_t{0xffff} : value;
}

/// Completes a checksum as NEEDS_CSUM asks: the field holds the pseudo-header's sum already. False: it is not inside.
bool complete_checksum(const NetHeader& header, std::span<std::byte> frame) {
  const std::size_t field = std::size_t{header.csum_start} + header.csum_offset;
  if (frame.size() < field + 2) return false;
  const std::uint16_t sum = internet_sum(frame.subspan(header.csum_start));
  put_be16(frame, field, to_checksum(sum, header.csum_offset == kUdpChecksum));
  return true;
}

/// One segment among those of its frame.
struct SegmentPlace {
  std::uint16_t number;
  std::size_t offset;  ///< of its payload in the whole payload
  bool is_last;
};

void fix_ip_header(std::span<std::byte> segment, const PacketLayout& layout, const SegmentPlace& place) {
  const std::size_t ip = layout.ip;
  if (layout.is_ipv6) {
    put_be16(segment, ip + 4, static_cast<std::uint16_t>(segment.size() - ip - 40));
    return;
  }
  put_be16(segment, ip + 2, static_cast<std::uint16_t>(segment.size() - ip));
  put_be16(segment, ip + 4, static_cast<std::uint16_t>(be16(segment, ip + 4) + place.number));
  put_be16(segment, ip + 10, 0);
  const auto header = segment.subspan(ip, layout.transport - ip);
  put_be16(segment, ip + 10, to_checksum(internet_sum(header), false));
}

void fix_transport_header(std::span<std::byte> segment, const PacketLayout& layout, const SegmentPlace& place) {
  const std::size_t at = layout.transport;
  if (layout.protocol == kProtocolUdp) {
    put_be16(segment, at + 4, static_cast<std::uint16_t>(segment.size() - at));
    return;
  }
  put_be32(segment, at + 4, be32(segment, at + 4) + static_cast<std::uint32_t>(place.offset));
  // The end, and the wish to be handed on at once, belong to the last segment; the answer to congestion to the first.
  auto flags = std::to_integer<std::uint8_t>(segment[at + 13]);
  if (!place.is_last) flags &= static_cast<std::uint8_t>(~(kTcpFin | kTcpPsh));
  if (place.number != 0) flags &= static_cast<std::uint8_t>(~kTcpCwr);
  segment[at + 13] = std::byte{flags};
}

/// Fills the checksum in, or leaves it to the receiver; returns the header that says which.
NetHeader finish_checksum(std::span<std::byte> segment, const PacketLayout& layout, bool receiver_checks) {
  const std::size_t field = layout.checksum();
  put_be16(segment, field, pseudo_sum(segment, layout, segment.size() - layout.transport));
  if (!receiver_checks) {
    const std::uint16_t sum = internet_sum(segment.subspan(layout.transport));
    put_be16(segment, field, to_checksum(sum, layout.protocol == kProtocolUdp));
    return {};
  }
  return {.flags = virtio::kNetHeaderNeedsCsum,
          .gso_type = virtio::kGsoNone,
          .hdr_len = static_cast<std::uint16_t>(layout.payload),
          .gso_size = 0,
          .csum_start = static_cast<std::uint16_t>(layout.transport),
          .csum_offset = static_cast<std::uint16_t>(field - layout.transport),
          .num_buffers = 0};
}

bool takes_gso(std::uint8_t kind, FeatureSet receiver) {
  switch (kind) {
    case virtio::kGsoTcp4:
      return receiver.has(NetFeature::guest_tso4);
    case virtio::kGsoTcp6:
      return receiver.has(NetFeature::guest_tso6);
    case virtio::kGsoUdpL4:
      // The header does not say which version of IP it is.
      return receiver.has(NetFeature::guest_uso4) && receiver.has(NetFeature::guest_uso6);
    default:
      return false;
  }
}

HeaderFault check_gso(const NetHeader& header, std::uint32_t frame_length, FeatureSet negotiated) {
  const bool is_ecn = (header.gso_type & virtio::kGsoEcn) != 0;
  NetFeature needed{};
  switch (gso_kind(header)) {
    case virtio::kGsoTcp4:
      needed = NetFeature::host_tso4;
      break;
    case virtio::kGsoTcp6:
      needed = NetFeature::host_tso6;
      break;
    case virtio::kGsoUdpL4:
      if (is_ecn) return HeaderFault::bad_gso_type;
      needed = NetFeature::host_uso;
      break;
    default:
      return HeaderFault::bad_gso_type;
  }
  if (!negotiated.has(needed) || (is_ecn && !negotiated.has(NetFeature::host_ecn))) return HeaderFault::not_negotiated;
  if (header.gso_size == 0) return HeaderFault::gso_without_size;
  if ((header.flags & virtio::kNetHeaderNeedsCsum) == 0) return HeaderFault::gso_without_checksum;
  const bool is_udp = needed == NetFeature::host_uso;
  if (header.csum_start + (is_udp ? kUdpHeader : kTcpHeader) > frame_length)
    return HeaderFault::gso_header_outside_frame;
  const bool is_in_place = header.csum_offset == (is_udp ? kUdpChecksum : kTcpChecksum);
  return is_in_place ? HeaderFault::none : HeaderFault::gso_checksum_misplaced;
}

}  // namespace

HeaderFault check_offloads(NetHeader& header, std::uint32_t frame_length, FeatureSet negotiated) {
  header.flags &= virtio::kNetHeaderNeedsCsum;
  if (header.flags != 0) {
    if (!negotiated.has(NetFeature::csum)) return HeaderFault::not_negotiated;
    // In 32 bits, where the sum of two fields of 16 cannot wrap.
    if (std::uint32_t{header.csum_start} + header.csum_offset + 2 > frame_length)
      return HeaderFault::csum_outside_frame;
  }
  return header.gso_type == virtio::kGsoNone ? HeaderFault::none : check_gso(header, frame_length, negotiated);
}

bool lacks_offloads(const NetHeader& header, FeatureSet receiver) {
  if (header.flags != 0 && !receiver.has(NetFeature::guest_csum)) return true;
  if (header.gso_type == virtio::kGsoNone) return false;
  if ((header.gso_type & virtio::kGsoEcn) != 0 && !receiver.has(NetFeature::guest_ecn)) return true;
  return !takes_gso(gso_kind(header), receiver);
}

std::uint16_t internet_sum(std::span<const std::byte> bytes, std::uint16_t start) {
  // The sum does not depend on byte order (RFC 1071 section 2 B): words are added as they lie, four bytes at a time,
  // with the carries gathered above; 2^32 words would have to come before those overflow.
  std::uint64_t sum = 0;
  std::uint32_t word = 0;
  for (; bytes.size() >= sizeof word; bytes = bytes.subspan(sizeof word)) {
    std::memcpy(&word, bytes.data(), sizeof word);
    sum += word;
  }
  word = 0;
  if (!bytes.empty()) std::memcpy(&word, bytes.data(), bytes.size());
  sum += word;
  while ((sum >> 16) != 0) sum = (sum & 0xffff) + (sum >> 16);
  auto words = static_cast<std::uint16_t>(sum);
  if constexpr (std::endian::native == std::endian::little) words = std::byteswap(words);
  const std::uint32_t total = std::uint32_t{start} + words;
  return static_cast<std::uint16_t>((total & 0xffff) + (total >> 16));
}

bool Resolver::resolve(const NetHeader& header, std::span<std::byte> frame, FeatureSet receiver, const Emit& emit) {
  const bool receiver_checks = receiver.has(NetFeature::guest_csum);
  if (header.gso_type != virtio::kGsoNone) return segment(header, frame, receiver_checks, emit);
  const bool needs_csum = (header.flags & virtio::kNetHeaderNeedsCsum) != 0;
  if (needs_csum && !complete_checksum(header, frame)) return false;
  emit(NetHeader{}, frame);
  return true;
}

bool Resolver::segment(const NetHeader& header, std::span<const std::byte> frame, bool receiver_checks,
                       const Emit& emit) {
  const auto layout = find_layout(header, frame);
  if (!layout || header.gso_size == 0) return false;
  const auto headers = frame.first(layout->payload);
  const auto payload = frame.subspan(layout->payload);
  const std::size_t step = std::min<std::size_t>(header.gso_size, payload.size());
  if ((payload.size() + step - 1) / step > kMaxSegments) return false;
  // A segment's length must fit its IP header.
  if (headers.size() + step - layout->ip - (layout->is_ipv6 ? 40 : 0) > kLongestIp) return false;

  std::uint16_t number = 0;
  for (std::size_t offset = 0; offset < payload.size(); offset += step, ++number) {
    const auto part = payload.subspan(offset, std::min(step, payload.size() - offset));
    const SegmentPlace place{.number = number, .offset = offset, .is_last = offset + part.size() == payload.size()};
    segment_.assign(headers.begin(), headers.end());
    segment_.insert(segment_.end(), part.begin(), part.end());
    fix_ip_header(segment_, *layout, place);
    fix_transport_header(segment_, *layout, place);
    emit(finish_checksum(segment_, *layout, receiver_checks), segment_);
  }
  return true;
}

}  // namespace causeway::net

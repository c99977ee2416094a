// Segmentation over every shape of packet, held against a second, plain reading of the standards; and what is refused.

#include "net/offload.h"
#include "net/test_packets.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

namespace causeway::net {
namespace {

using testing::header_for;
using testing::kTcp;
using testing::kUdp;
using testing::make_packet;
using testing::Packet;
using testing::PacketShape;
using virtio::FeatureSet, virtio::NetFeature, virtio::NetHeader;

constexpr FeatureSet kSender{NetFeature::csum, NetFeature::host_tso4, NetFeature::host_tso6, NetFeature::host_ecn,
                             NetFeature::host_uso};
constexpr FeatureSet kChecks{NetFeature::guest_csum};

struct Segment {
  NetHeader header;
  Packet packet;
};

/// What the resolver makes of `packet`; nothing when it refuses, having emitted nothing.
std::optional<std::vector<Segment>> resolve(const Packet& packet, const NetHeader& header, FeatureSet receiver) {
  Resolver resolver;
  std::vector<Segment> segments;
  auto frame = packet.bytes;
  const bool done = resolver.resolve(header, frame, receiver, [&](const NetHeader& head, auto bytes) {
    Packet part = packet;
    part.bytes.assign(bytes.begin(), bytes.end());
    segments.push_back({.header = head, .packet = std::move(part)});
  });
  if (done) return segments;
  EXPECT_TRUE(segments.empty()) << "part of a frame that was refused";
  return std::nullopt;
}

/// Does what a receiver with GUEST_CSUM does, as the standard puts it.
void complete(Segment& segment) {
  auto& bytes = segment.packet.bytes;
  const std::size_t start = segment.header.csum_start;
  const auto sum = testing::simple_sum(std::span(bytes).subspan(start));
  put_be16(bytes, start + segment.header.csum_offset, static_cast<std::uint16_t>(sum == 0xffff ? sum : ~sum));
}

PacketShape any_shape() {
  PacketShape shape;
  shape.vlan_tags = *rc::gen::inRange<std::size_t>(0, 3);
  shape.is_ipv6 = *rc::gen::arbitrary<bool>();
  shape.ip_option_words = *rc::gen::inRange<std::size_t>(0, 11);
  const auto extensions = *rc::gen::inRange<std::size_t>(0, 4);
  for (std::size_t i = 0; i < extensions; ++i)
    shape.extension_headers.push_back(*rc::gen::element<std::uint8_t>(0, 43, 60));
  shape.protocol = *rc::gen::element(kTcp, kUdp);
  shape.tcp_option_words = *rc::gen::inRange<std::size_t>(0, 11);
  shape.tcp_flags = *rc::gen::arbitrary<std::uint8_t>();
  shape.payload = *rc::gen::inRange<std::size_t>(1, 30000);
  return shape;
}

void check_ip(const Packet& packet, std::size_t number) {
  const auto& bytes = packet.bytes;
  if (packet.is_ipv6) {
    RC_ASSERT(be16(bytes, packet.ip + 4) == bytes.size() - packet.ip - 40);
    return;
  }
  RC_ASSERT(testing::has_good_ip_checksum(packet));
  RC_ASSERT(be16(bytes, packet.ip + 2) == bytes.size() - packet.ip);
  RC_ASSERT(be16(bytes, packet.ip + 4) == static_cast<std::uint16_t>(testing::kFirstId + number));
}

void check_transport(const Packet& packet, std::uint8_t flags_sent, std::size_t offset, bool is_last) {
  const auto& bytes = packet.bytes;
  RC_ASSERT(testing::has_good_checksum(packet));
  if (packet.protocol == kUdp) {
    RC_ASSERT(be16(bytes, packet.transport + 4) == bytes.size() - packet.transport);
    return;
  }
  RC_ASSERT(be32(bytes, packet.transport + 4) == static_cast<std::uint32_t>(testing::kFirstSequence + offset));
  const unsigned only_last = is_last ? 0 : 0x09;       // FIN, PSH
  const unsigned only_first = offset == 0 ? 0 : 0x80;  // CWR
  RC_ASSERT(std::to_integer<unsigned>(bytes[packet.transport + 13]) == (flags_sent & ~(only_last | only_first)));
}

RC_GTEST_PROP(Segmentation, HoldsForEveryShapeOfPacket, ()) {
  const PacketShape shape = any_shape();
  const Packet packet = make_packet(shape);
  const auto least = static_cast<std::uint16_t>(shape.payload / Resolver::kMaxSegments + 1);
  const auto size = *rc::gen::inRange<std::uint16_t>(least, 9000);
  NetHeader header = header_for(packet, size);
  RC_ASSERT(check_header(header, static_cast<std::uint32_t>(packet.bytes.size()), kSender) == HeaderFault::none);
  const bool checks = *rc::gen::arbitrary<bool>();
  auto segments = resolve(packet, header, checks ? kChecks : FeatureSet());
  RC_ASSERT(segments.has_value());
  RC_ASSERT(segments->size() == (shape.payload + size - 1) / size);
  std::vector<std::byte> carried;
  for (std::size_t i = 0; i < segments->size(); ++i) {
    Segment& segment = (*segments)[i];
    RC_ASSERT(!needs_resolution(segment.header, checks ? kChecks : FeatureSet()));
    RC_ASSERT((segment.header.flags == virtio::kNetHeaderNeedsCsum) == checks);
    if (checks) complete(segment);
    const bool is_last = i + 1 == segments->size();
    check_ip(segment.packet, i);
    check_transport(segment.packet, shape.tcp_flags, carried.size(), is_last);
    const auto part = std::span(segment.packet.bytes).subspan(packet.payload);
    RC_ASSERT((is_last ? part.size() <= size : part.size() == size));
    carried.insert(carried.end(), part.begin(), part.end());
  }
  RC_ASSERT(std::ranges::equal(carried, std::span(packet.bytes).subspan(packet.payload)));
}

RC_GTEST_PROP(Segmentation, SurvivesAnyByteInTheHeaders, ()) {
  Packet packet = make_packet(any_shape());
  NetHeader header = header_for(packet, 500);
  for (int i = *rc::gen::inRange(1, 4); i > 0; --i) {
    const auto at = *rc::gen::inRange<std::size_t>(12, packet.payload);
    packet.bytes[at] = static_cast<std::byte>(*rc::gen::arbitrary<std::uint8_t>());
  }
  packet.bytes.resize(*rc::gen::inRange<std::size_t>(14, packet.bytes.size() + 1));
  packet.bytes.shrink_to_fit();  // so that AddressSanitizer sees a read behind the end
  if (check_header(header, static_cast<std::uint32_t>(packet.bytes.size()), kSender) != HeaderFault::none) return;
  const auto segments = resolve(packet, header, FeatureSet());
  if (segments) RC_ASSERT(segments->size() <= Resolver::kMaxSegments);
}

RC_GTEST_PROP(InternetSum, IsThatOfRfc1071, (std::vector<std::uint8_t> bytes, std::uint16_t start)) {
  for (std::size_t skip = 0; skip <= std::min<std::size_t>(bytes.size(), 9); ++skip) {
    const auto part = std::as_bytes(std::span(bytes)).subspan(skip);
    // Zero has two forms in one's complement; a sum is compared as a checksum is, up to that.
    RC_ASSERT(internet_sum(part, start) % 0xffff == testing::simple_sum(part, start) % 0xffff);
  }
}

TEST(InternetSum, CarriesThroughTheLongestFrame) {
  const std::vector<std::byte> ones(65535, std::byte{0xff});
  EXPECT_EQ(internet_sum(ones), testing::simple_sum(ones));
  EXPECT_EQ(internet_sum({}, 0x1234), 0x1234);
}

TEST(Checksum, IsCompletedForReceiversWithoutIt) {
  for (const std::uint8_t protocol : {kTcp, kUdp}) {
    for (const std::size_t payload : {0U, 1U, 999U}) {
      const Packet packet = make_packet({.vlan_tags = 1, .protocol = protocol, .payload = payload});
      const auto done = resolve(packet, header_for(packet), FeatureSet());
      ASSERT_TRUE(done);
      ASSERT_EQ(done->size(), 1U);
      EXPECT_EQ(done->front().header.flags, 0);
      EXPECT_TRUE(testing::has_good_checksum(done->front().packet));
    }
  }
}

TEST(Checksum, OfUdpIsNeverZeroWhichWouldMeanNone) {
  Packet packet = make_packet({.protocol = kUdp, .payload = 2});
  // The payload that brings the sum to 0xffff, whose inverse is zero.
  put_be16(packet.bytes, packet.payload, 0);
  const auto sum = testing::simple_sum(std::span(packet.bytes).subspan(packet.transport));
  put_be16(packet.bytes, packet.payload, static_cast<std::uint16_t>(~sum));
  const auto done = resolve(packet, header_for(packet), FeatureSet());
  ASSERT_TRUE(done);
  EXPECT_EQ(be16(done->front().packet.bytes, packet.checksum()), 0xffff);
}

TEST(Checksum, OutsideTheFrameIsRefusedHereToo) {
  const Packet packet = make_packet({});
  NetHeader header = header_for(packet);
  header.csum_start = static_cast<std::uint16_t>(packet.bytes.size());
  EXPECT_FALSE(resolve(packet, header, FeatureSet()));
}

TEST(CheckHeader, IgnoresFlagsThatOnlyADeviceMaySet) {
  NetHeader header{};
  header.flags = virtio::kNetHeaderDataValid | 4;
  EXPECT_EQ(check_header(header, 60, FeatureSet()), HeaderFault::none);
  EXPECT_EQ(header.flags, 0) << "the receiver would believe that the checksum was looked at";
  header = header_for(make_packet({}));
  header.flags |= virtio::kNetHeaderDataValid;
  EXPECT_EQ(check_header(header, 200, kSender), HeaderFault::none);
  EXPECT_EQ(header.flags, virtio::kNetHeaderNeedsCsum);
}

TEST(CheckHeader, WantsTheTransportHeaderWhereItsTypeHasIt) {
  NetHeader header = header_for(make_packet({}), 500);
  EXPECT_EQ(check_header(header, header.csum_start + 20U, kSender), HeaderFault::none);
  EXPECT_EQ(check_header(header, header.csum_start + 19U, kSender), HeaderFault::gso_header_outside_frame);
  header.csum_offset = 6;
  EXPECT_EQ(check_header(header, 200, kSender), HeaderFault::gso_checksum_misplaced);
  header = header_for(make_packet({.protocol = kUdp}), 500);
  EXPECT_EQ(check_header(header, header.csum_start + 8U, kSender), HeaderFault::none);
  header.gso_type |= virtio::kGsoEcn;
  EXPECT_EQ(check_header(header, 200, kSender), HeaderFault::bad_gso_type) << "ECN is TCP's";
}

TEST(NeedsResolution, OnlyWhereTheReceiverLacksWhatIsAsked) {
  const auto tcp4 = header_for(make_packet({}), 500);
  const auto uso = header_for(make_packet({.protocol = kUdp}), 500);
  auto ecn = tcp4;
  ecn.gso_type |= virtio::kGsoEcn;
  const FeatureSet tso4 = kChecks.with(NetFeature::guest_tso4);
  EXPECT_FALSE(needs_resolution(NetHeader{}, FeatureSet()));
  EXPECT_TRUE(needs_resolution(header_for(make_packet({})), FeatureSet()));
  EXPECT_FALSE(needs_resolution(header_for(make_packet({})), kChecks));
  EXPECT_TRUE(needs_resolution(tcp4, kChecks.with(NetFeature::guest_tso6)));
  EXPECT_FALSE(needs_resolution(tcp4, tso4));
  EXPECT_TRUE(needs_resolution(ecn, tso4));
  EXPECT_FALSE(needs_resolution(ecn, tso4.with(NetFeature::guest_ecn)));
  EXPECT_TRUE(needs_resolution(uso, kChecks.with(NetFeature::guest_uso4))) << "it may be IPv6";
  EXPECT_FALSE(needs_resolution(uso, kChecks.with(NetFeature::guest_uso4).with(NetFeature::guest_uso6)));
}

/// Whether a good packet is refused once `change` has been made to it and its header.
template <class Change>
bool refuses(const PacketShape& shape, Change change) {
  Packet packet = make_packet(shape);
  NetHeader header = header_for(packet, 500);
  EXPECT_TRUE(resolve(packet, header, FeatureSet())) << "it is good at first";
  change(packet, header);
  return !resolve(packet, header, FeatureSet());
}

TEST(Segmentation, RefusesWhatIsNotWhatItsHeaderSays) {
  const PacketShape ipv4{.payload = 3000};
  const PacketShape ipv6{.is_ipv6 = true, .extension_headers = {43}, .payload = 3000};
  const auto set = [](std::size_t at, int value) {
    return [at, value](Packet& p, NetHeader&) { p.bytes[p.ip + at] = static_cast<std::byte>(value); };
  };
  EXPECT_TRUE(refuses(ipv4, set(9, kUdp))) << "IPv4 that carries another protocol";
  EXPECT_TRUE(refuses(ipv4, set(0, 0x65))) << "another version";
  EXPECT_TRUE(refuses(ipv4, set(0, 0x44))) << "a header of 16 bytes";
  EXPECT_TRUE(refuses(ipv4, set(0, 0x46))) << "a header that goes on behind csum_start";
  EXPECT_TRUE(refuses(ipv4, set(6, 0x20))) << "more fragments";
  EXPECT_TRUE(refuses(ipv4, set(7, 1))) << "a later fragment";
  EXPECT_TRUE(refuses(ipv6, set(6, 44))) << "an IPv6 fragment";
  EXPECT_TRUE(refuses(ipv6, set(41, 255))) << "an extension header longer than the frame's headers";
  EXPECT_TRUE(refuses(ipv6, set(43, 1))) << "a route with a stop left";
  EXPECT_TRUE(refuses(ipv4, [](Packet&, NetHeader& h) { h.gso_type = virtio::kGsoTcp6; }));
  EXPECT_TRUE(refuses(ipv6, [](Packet&, NetHeader& h) { h.gso_type = virtio::kGsoTcp4; }));
  const PacketShape two_extensions{.is_ipv6 = true, .extension_headers = {60, 60}, .payload = 900};
  EXPECT_TRUE(refuses(two_extensions, set(41, 255))) << "the second extension header would lie outside the frame";
  const Packet three_tags = make_packet({.vlan_tags = 3, .payload = 900});
  EXPECT_FALSE(resolve(three_tags, header_for(three_tags, 500), FeatureSet()));
}

TEST(Segmentation, RefusesTooManySegmentsAndTooLongOnes) {
  const auto with_size = [](std::size_t payload, std::uint16_t size) {
    const Packet packet = make_packet({.protocol = kUdp, .payload = payload});
    return resolve(packet, header_for(packet, size), FeatureSet()).has_value();
  };
  EXPECT_TRUE(with_size(1366, 1));
  EXPECT_FALSE(with_size(1367, 1));
  EXPECT_TRUE(with_size(65507, 65507)) << "with both headers 65,535 bytes, the most that IPv4 can say";
  EXPECT_FALSE(with_size(65508, 65508));
}

}  // namespace
}  // namespace causeway::net

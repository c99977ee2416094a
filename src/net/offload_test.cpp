#include "net/offload.h"

#include "net/ethernet.h"
#include "net/flow_hash.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstring>

namespace causeway::net {
namespace {

using virtio::FeatureSet, virtio::NetFeature, virtio::NetHeader;

constexpr FeatureSet kSender{NetFeature::csum, NetFeature::host_tso4, NetFeature::host_tso6, NetFeature::host_uso};
constexpr FeatureSet kChecks{NetFeature::guest_csum};
constexpr std::size_t kIp = 14;

enum class Kind : std::uint8_t { tcp4, tcp6, udp4 };

struct Packet {
  NetHeader header;
  std::vector<std::byte> bytes;
  std::size_t payload;  // offset
};

void put(std::vector<std::byte>& bytes, std::size_t at, std::initializer_list<int> values) {
  for (const int value : values) bytes[at++] = static_cast<std::byte>(value);
}

std::uint16_t be16(std::span<const std::byte> bytes, std::size_t at) {
  return static_cast<std::uint16_t>(std::to_integer<int>(bytes[at]) << 8 | std::to_integer<int>(bytes[at + 1]));
}

/// A frame as a sender with offloads makes it; the checksum field holds what the standard wants, the pseudo-header's
/// sum.
Packet make_packet(Kind kind, std::size_t payload, std::uint16_t segment) {
  const std::size_t ip_header = kind == Kind::tcp6 ? 40 : 20;
  const std::size_t transport = kIp + ip_header;
  const std::size_t start = transport + (kind == Kind::udp4 ? 8 : 20);
  Packet packet{.header = {}, .bytes = std::vector<std::byte>(start + payload), .payload = start};
  auto& bytes = packet.bytes;
  put(bytes, 12, kind == Kind::tcp6 ? std::initializer_list<int>{0x86, 0xdd} : std::initializer_list<int>{8, 0});
  if (kind == Kind::tcp6) {
    put(bytes, kIp, {0x60, 0, 0, 0, 0, 0, 6, 64});
    for (int i = 0; i < 32; ++i) bytes[kIp + 8 + static_cast<std::size_t>(i)] = static_cast<std::byte>(i * 7);
  } else {
    put(bytes, kIp, {0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, kind == Kind::udp4 ? 17 : 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2});
  }
  put(bytes, transport, {0x30, 0x39, 0, 80, 1, 2, 3, 4});
  if (kind != Kind::udp4) put(bytes, transport + 12, {0x50, 0x80 | 0x10 | 0x08 | 0x01});  // CWR ACK PSH FIN
  for (std::size_t i = 0; i < payload; ++i) bytes[start + i] = static_cast<std::byte>(i * 13 + 5);
  packet.header = {.flags = virtio::kNetHeaderNeedsCsum,
                   .gso_type = kind == Kind::tcp4   ? virtio::kGsoTcp4
                               : kind == Kind::tcp6 ? virtio::kGsoTcp6
                                                    : virtio::kGsoUdpL4,
                   .hdr_len = static_cast<std::uint16_t>(start),
                   .gso_size = segment,
                   .csum_start = static_cast<std::uint16_t>(transport),
                   .csum_offset = static_cast<std::uint16_t>(kind == Kind::udp4 ? 6 : 16),
                   .num_buffers = 1};
  return packet;
}

/// The transport checksum over pseudo-header and segment: 0xffff when it is right.
std::uint16_t transport_sum(Kind kind, std::span<const std::byte> frame) {
  const std::size_t ip_header = kind == Kind::tcp6 ? 40 : 20;
  const auto transport = frame.subspan(kIp + ip_header);
  const auto addresses = kind == Kind::tcp6 ? frame.subspan(kIp + 8, 32) : frame.subspan(kIp + 12, 8);
  const std::byte tail[] = {std::byte{0}, std::byte{kind == Kind::udp4 ? std::uint8_t{17} : std::uint8_t{6}},
                            static_cast<std::byte>(transport.size() >> 8), static_cast<std::byte>(transport.size())};
  return internet_sum(transport, internet_sum(tail, internet_sum(addresses)));
}

TEST(CheckHeader, RefusesOffloadsThatContradictTheFrameOrTheNegotiation) {
  NetHeader good = make_packet(Kind::tcp4, 3000, 1448).header;
  EXPECT_EQ(check_header(good, 3054, kSender), HeaderFault::none);
  EXPECT_EQ(check_header(good, 3054, FeatureSet()), HeaderFault::not_negotiated);
  EXPECT_EQ(check_header(good, 3054, FeatureSet{NetFeature::csum}), HeaderFault::not_negotiated);
  EXPECT_EQ(check_header(good, 51, kSender), HeaderFault::csum_outside_frame);
  const auto with = [&](auto change) {
    NetHeader header = good;
    change(header);
    return check_header(header, 3054, kSender);
  };
  EXPECT_EQ(with([](NetHeader& h) { h.csum_start = 0xffff; }), HeaderFault::csum_outside_frame);
  EXPECT_EQ(with([](NetHeader& h) { h.gso_size = 0; }), HeaderFault::gso_without_size);
  EXPECT_EQ(with([](NetHeader& h) { h.flags = 0; }), HeaderFault::gso_without_checksum);
  EXPECT_EQ(with([](NetHeader& h) { h.gso_type = 0x7f; }), HeaderFault::bad_gso_type);
  EXPECT_EQ(with([](NetHeader& h) { h.gso_type = virtio::kGsoTcp4 | virtio::kGsoEcn; }), HeaderFault::not_negotiated);
}

RC_GTEST_PROP(Resolver, MakesSegmentsThatCarryTheWholePayload, ()) {
  const auto kind = *rc::gen::element(Kind::tcp4, Kind::tcp6, Kind::udp4);
  const auto payload = *rc::gen::inRange<std::size_t>(1, 20000);
  const auto segment = *rc::gen::inRange<std::uint16_t>(48, 9000);
  const bool checks = *rc::gen::arbitrary<bool>();
  Packet packet = make_packet(kind, payload, segment);
  const auto original = packet.bytes;
  std::vector<std::byte> carried;
  std::size_t frames = 0;
  Resolver resolver;
  const bool done = resolver.resolve(
      packet.header, packet.bytes, checks ? kChecks : FeatureSet(),
      [&](const NetHeader& header, std::span<const std::byte> frame) {
        const auto part = frame.subspan(packet.payload);
        RC_ASSERT(part.size() <= segment);
        RC_ASSERT(header.gso_type == virtio::kGsoNone);
        RC_ASSERT((header.flags != 0) == checks);
        std::vector<std::byte> whole(frame.begin(), frame.end());
        if (checks) {
          const std::size_t field = std::size_t{header.csum_start} + header.csum_offset;
          const auto value = static_cast<std::uint16_t>(~internet_sum(std::span(whole).subspan(header.csum_start)));
          whole[field] = static_cast<std::byte>(value >> 8);
          whole[field + 1] = static_cast<std::byte>(value & 0xff);
        }
        RC_ASSERT(transport_sum(kind, whole) == 0xffff);
        if (kind != Kind::tcp6) {
          RC_ASSERT(internet_sum(frame.subspan(kIp, 20)) == 0xffff);
          RC_ASSERT(be16(frame, kIp + 2) == frame.size() - kIp);
          RC_ASSERT(be16(frame, kIp + 4) == 0x1234 + frames);
        } else {
          RC_ASSERT(be16(frame, kIp + 4) == frame.size() - kIp - 40);
        }
        if (kind != Kind::udp4) {
          const std::size_t transport = packet.payload - 20;
          const auto sequence =
              static_cast<std::uint32_t>(be16(frame, transport + 4)) << 16 | be16(frame, transport + 6);
          RC_ASSERT(sequence == 0x01020304 + carried.size());
          const auto flags = std::to_integer<int>(frame[transport + 13]);
          const bool last = carried.size() + part.size() == payload;
          RC_ASSERT(((flags & 0x09) == 0x09) == last);
          RC_ASSERT(((flags & 0x80) != 0) == (frames == 0));
        }
        carried.insert(carried.end(), part.begin(), part.end());
        ++frames;
      });
  RC_ASSERT(done);
  RC_ASSERT(std::ranges::equal(carried, std::span(original).subspan(packet.payload)));
}

TEST(Resolver, CompletesAChecksumForAReceiverThatCannot) {
  Packet packet = make_packet(Kind::udp4, 777, 0);
  packet.header.gso_type = virtio::kGsoNone;
  // What a sender puts into the field: the sum over the pseudo-header.
  auto& bytes = packet.bytes;
  const std::size_t transport = packet.header.csum_start;
  const std::size_t length = bytes.size() - transport;
  const std::byte tail[] = {std::byte{0}, std::byte{17}, static_cast<std::byte>(length >> 8),
                            static_cast<std::byte>(length)};
  const std::uint16_t sum = internet_sum(tail, internet_sum(std::span(bytes).subspan(kIp + 12, 8)));
  bytes[transport + 6] = static_cast<std::byte>(sum >> 8);
  bytes[transport + 7] = static_cast<std::byte>(sum & 0xff);
  Resolver resolver;
  int frames = 0;
  EXPECT_TRUE(resolver.resolve(packet.header, bytes, FeatureSet(), [&](const NetHeader& header, auto frame) {
    EXPECT_EQ(header.flags, 0);
    EXPECT_EQ(transport_sum(Kind::udp4, frame), 0xffff);
    ++frames;
  }));
  EXPECT_EQ(frames, 1);
}

TEST(Resolver, RefusesHeadersThatAreNotThere) {
  Resolver resolver;
  const auto refuses = [&](auto change) {
    Packet packet = make_packet(Kind::tcp4, 3000, 1448);
    change(packet);
    return !resolver.resolve(packet.header, packet.bytes, FeatureSet(), [](const NetHeader&, auto) { ADD_FAILURE(); });
  };
  EXPECT_TRUE(refuses([](Packet& p) { p.bytes[12] = std::byte{0x88}; })) << "no IP";
  EXPECT_TRUE(refuses([](Packet& p) { p.header.csum_start = 20; })) << "a transport header inside the IP header";
  EXPECT_TRUE(refuses([](Packet& p) { p.header.csum_start = 3050; })) << "a transport header at the frame's end";
  EXPECT_TRUE(refuses([](Packet& p) { p.bytes[kIp + 20 + 12] = std::byte{0x10}; })) << "a TCP header of 4 bytes";
  EXPECT_TRUE(refuses([](Packet& p) { p.bytes.resize(54); })) << "no payload";
  EXPECT_TRUE(refuses([](Packet& p) { p.header.gso_size = 1; })) << "thousands of segments";
}

TEST(FlowHash, IsTheSameInBothDirectionsAndDiffersBetweenFlows) {
  const auto forth = make_packet(Kind::tcp4, 10, 0).bytes;
  auto back = forth;
  std::swap_ranges(back.begin() + kIp + 12, back.begin() + kIp + 16, back.begin() + kIp + 16);
  std::swap_ranges(back.begin() + kIp + 20, back.begin() + kIp + 22, back.begin() + kIp + 22);
  EXPECT_EQ(flow_hash(forth), flow_hash(back));
  auto other = forth;
  other[kIp + 21] = std::byte{99};
  EXPECT_NE(flow_hash(forth), flow_hash(other));
  for (std::size_t size = 0; size <= forth.size(); ++size) flow_hash(std::span(forth).first(size));
}

}  // namespace
}  // namespace causeway::net

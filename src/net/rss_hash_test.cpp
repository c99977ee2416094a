// The receive hash: the verification suite that Microsoft publishes for RSS, a second implementation, and every type.

#include "net/rss_hash.h"

#include "net/hash_layout.h"
#include "net/test_packets.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <vector>

namespace causeway::net {
namespace {

using testing::make_packet, testing::kTcp, testing::kUdp;
using virtio::HashReport;
using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

const Bytes& suite_key() {
  static const Bytes key = bytes_of({0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
                                     0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
                                     0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa});
  return key;
}

/// Bit by bit, as the definition says: where the input has a bit, the 32 bits of the key from there on count.
std::uint32_t slow_toeplitz(const Bytes& key, const Bytes& input) {
  const auto bit = [](const Bytes& bytes, std::size_t at) {
    return at / 8 < bytes.size() ? std::to_integer<unsigned>(bytes[at / 8]) >> (7 - at % 8) & 1U : 0U;
  };
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < 8 * input.size(); ++i) {
    std::uint32_t window = 0;
    for (std::size_t j = 0; j < 32; ++j) window = window << 1 | bit(key, i + j);
    if (bit(input, i) != 0) sum ^= window;
  }
  return sum;
}

/// One line of the suite: the frame, and what its hashes must be.
struct Vector {
  bool is_ipv6;
  Bytes source;
  Bytes destination;
  std::uint16_t source_port;
  std::uint16_t destination_port;
  std::uint32_t of_addresses;
  std::uint32_t of_flow;
};

std::vector<Vector> suite() {
  const Bytes mapped = bytes_of({0x3f, 0xfe, 0x19, 0, 0x45, 0x45, 0, 3, 2, 0, 0xf8, 0xff, 0xfe, 0x21, 0x67, 0xcf});
  return {
      {false, bytes_of({66, 9, 149, 187}), bytes_of({161, 142, 100, 80}), 2794, 1766, 0x323e8fc2, 0x51ccc178},
      {false, bytes_of({199, 92, 111, 2}), bytes_of({65, 69, 140, 83}), 14230, 4739, 0xd718262a, 0xc626b0ea},
      {false, bytes_of({24, 19, 198, 95}), bytes_of({12, 22, 207, 184}), 12898, 38024, 0xd2d0a5de, 0x5c2b394a},
      {false, bytes_of({38, 27, 205, 30}), bytes_of({209, 142, 163, 6}), 48228, 2217, 0x82989176, 0xafc7327f},
      {false, bytes_of({153, 39, 163, 191}), bytes_of({202, 188, 127, 2}), 44251, 1303, 0x5d1809c5, 0x10e828a2},
      {true, bytes_of({0x3f, 0xfe, 0x25, 1, 2, 0, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7}),
       bytes_of({0x3f, 0xfe, 0x25, 1, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1}), 2794, 1766, 0x2cc18cd5, 0x40207d3d},
      {true, bytes_of({0x3f, 0xfe, 5, 1, 0, 8, 0, 0, 2, 0x60, 0x97, 0xff, 0xfe, 0x40, 0xef, 0xab}),
       bytes_of({0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}), 14230, 4739, 0x0f0c461c, 0xdde51bbf},
      {true, mapped, bytes_of({0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0xf8, 0xff, 0xfe, 0x21, 0x67, 0xcf}), 44251, 38024,
       0x4b61e985, 0x02d1feef},
  };
}

Bytes frame_of(const Vector& vector, std::uint8_t protocol, std::size_t vlan_tags = 0) {
  auto packet = make_packet({.vlan_tags = vlan_tags, .is_ipv6 = vector.is_ipv6, .protocol = protocol, .payload = 4});
  const std::size_t addresses = packet.ip + (vector.is_ipv6 ? 8 : 12);
  std::ranges::copy(vector.source, packet.bytes.begin() + static_cast<std::ptrdiff_t>(addresses));
  std::ranges::copy(vector.destination,
                    packet.bytes.begin() + static_cast<std::ptrdiff_t>(addresses + vector.source.size()));
  put_be16(packet.bytes, packet.transport, vector.source_port);
  put_be16(packet.bytes, packet.transport + 2, vector.destination_port);
  return packet.bytes;
}

TEST(RssHash, GivesTheValuesOfTheVerificationSuite) {
  const RssHash hash(virtio::kHashAll, suite_key());
  for (const Vector& vector : suite()) {
    for (const std::size_t tags : {0U, 1U, 2U}) {
      const auto tcp = hash.compute(frame_of(vector, kTcp, tags));
      const auto udp = hash.compute(frame_of(vector, kUdp, tags));
      const auto other = hash.compute(frame_of(vector, 132, tags));
      EXPECT_EQ(tcp.value, vector.of_flow);
      EXPECT_EQ(udp.value, vector.of_flow);
      EXPECT_EQ(other.value, vector.of_addresses);
      EXPECT_EQ(tcp.report, vector.is_ipv6 ? HashReport::tcp6 : HashReport::tcp4);
      EXPECT_EQ(udp.report, vector.is_ipv6 ? HashReport::udp6 : HashReport::udp4);
      EXPECT_EQ(other.report, vector.is_ipv6 ? HashReport::ipv6 : HashReport::ipv4);
    }
  }
}

RC_GTEST_PROP(Toeplitz, AgreesWithItsDefinition, (const std::vector<std::uint8_t>& input)) {
  const auto raw = std::as_bytes(std::span(input)).first(std::min(input.size(), Toeplitz::kMaxInput));
  const Bytes bytes(raw.begin(), raw.end());
  const std::size_t length = *rc::gen::inRange<std::size_t>(0, Toeplitz::kMaxKey + 1);
  const Bytes key(suite_key().begin(), suite_key().begin() + static_cast<std::ptrdiff_t>(length));
  const Toeplitz hash(key);
  RC_ASSERT(hash.hash(bytes) == slow_toeplitz(key, bytes));
  const std::size_t cut = *rc::gen::inRange<std::size_t>(0, bytes.size() + 1);
  RC_ASSERT((hash.hash(std::span(bytes).first(cut)) ^ hash.hash(std::span(bytes).subspan(cut), cut)) ==
            hash.hash(bytes));
}

TEST(RssHash, TakesTheNarrowestTypeThatIsConfigured) {
  const Vector four = suite()[0];
  const Vector six = suite()[5];
  const auto report = [](std::uint32_t types, const Bytes& frame) {
    return RssHash(types, suite_key()).compute(frame).report;
  };
  EXPECT_EQ(report(virtio::kHashIpv4, frame_of(four, kTcp)), HashReport::ipv4);
  EXPECT_EQ(report(virtio::kHashIpv4 | virtio::kHashTcp4, frame_of(four, kUdp)), HashReport::ipv4);
  EXPECT_EQ(report(virtio::kHashTcp4, frame_of(four, kUdp)), HashReport::none);
  EXPECT_EQ(report(virtio::kHashIpv6, frame_of(four, kTcp)), HashReport::none);
  EXPECT_EQ(report(virtio::kHashIpv6, frame_of(six, kUdp)), HashReport::ipv6);
  EXPECT_EQ(report(virtio::kHashTcp6 | virtio::kHashUdp6, frame_of(six, kUdp)), HashReport::udp6);
  EXPECT_EQ(report(virtio::kHashIpv4 | virtio::kHashTcp6, frame_of(six, kUdp)), HashReport::none);
  EXPECT_EQ(RssHash(virtio::kHashTcp4, suite_key()).compute(frame_of(four, kUdp)), HashResult{});
  EXPECT_FALSE(RssHash().is_used());
}

TEST(RssHash, LeavesPortsOfFragmentsAlone) {
  auto packet = make_packet({.protocol = kUdp});
  const RssHash hash(virtio::kHashAll, suite_key());
  for (const int bits : {0x2000, 0x0001, 0x2003}) {
    put_be16(packet.bytes, packet.ip + 6, static_cast<std::uint16_t>(bits));
    EXPECT_EQ(hash.compute(packet.bytes).report, HashReport::ipv4) << bits;
  }
  const auto six = make_packet({.is_ipv6 = true, .extension_headers = {44}, .protocol = kTcp});
  EXPECT_EQ(RssHash(virtio::kHashTcp6 | virtio::kHashIpv6, suite_key()).compute(six.bytes).report, HashReport::ipv6);
}

TEST(RssHash, StepsOverExtensionHeadersUnlessTheirTypesAreWanted) {
  const auto plain = make_packet({.is_ipv6 = true});
  const auto extended = make_packet({.is_ipv6 = true, .extension_headers = {0, 60, 43}});
  const RssHash without(virtio::kHashTcp6 | virtio::kHashIpv6, suite_key());
  const RssHash with(virtio::kHashAll, suite_key());
  const auto flow = without.compute(plain.bytes);
  EXPECT_EQ(without.compute(extended.bytes), flow);
  EXPECT_EQ(with.compute(plain.bytes), flow) << "there are no extension headers";
  EXPECT_EQ(with.compute(extended.bytes), (HashResult{flow.value, HashReport::tcp6_ex})) << "which name no address";
  const auto udp = make_packet({.is_ipv6 = true, .extension_headers = {60}, .protocol = kUdp});
  EXPECT_EQ(with.compute(udp.bytes).report, HashReport::udp6_ex);
  EXPECT_EQ(RssHash(virtio::kHashIpv6Ex, suite_key()).compute(udp.bytes).report, HashReport::ipv6_ex);
}

TEST(RssHash, TakesTheAddressesThatExtensionHeadersName) {
  // Destination options of 24 bytes with a home address, then a routing header of type 2.
  auto packet = make_packet({.is_ipv6 = true, .extension_headers = {60, 43, 0}});
  const std::size_t options = packet.ip + 40;
  auto& bytes = packet.bytes;
  const auto put = [&bytes](std::size_t at, std::initializer_list<int> values) {
    for (const int value : values) bytes[at++] = static_cast<std::byte>(value);
  };
  // The three headers have 8, 16 and 24 bytes; make of them two of 24.
  put(options, {43, 2, 1, 2, 0, 0, 0xc9, 16});
  for (std::size_t i = 0; i < 16; ++i) bytes[options + 8 + i] = static_cast<std::byte>(0xa0 + i);
  put(options + 24, {kTcp, 2, 2, 1, 0, 0, 0, 0});
  for (std::size_t i = 0; i < 16; ++i) bytes[options + 32 + i] = static_cast<std::byte>(0xb0 + i);
  Bytes input(bytes.begin() + static_cast<std::ptrdiff_t>(options + 8),
              bytes.begin() + static_cast<std::ptrdiff_t>(options + 24));
  input.insert(input.end(), bytes.begin() + static_cast<std::ptrdiff_t>(options + 32),
               bytes.begin() + static_cast<std::ptrdiff_t>(options + 52));
  const auto layout = find_hash_layout(bytes);
  ASSERT_TRUE(layout.has_value());
  EXPECT_EQ(layout->home_address, options + 8);
  EXPECT_EQ(layout->final_address, options + 32);
  const auto addresses = Bytes(input.begin(), input.begin() + 32);
  const RssHash hash(virtio::kHashIpv6Ex, suite_key());
  EXPECT_EQ(hash.compute(bytes), (HashResult{slow_toeplitz(suite_key(), addresses), HashReport::ipv6_ex}));
}

RC_GTEST_PROP(RssHash, TakesAnyBytesOfAnyLength, (const std::vector<std::uint8_t>& noise)) {
  auto packet = make_packet({.vlan_tags = *rc::gen::inRange<std::size_t>(0, 4),
                             .is_ipv6 = *rc::gen::arbitrary<bool>(),
                             .extension_headers = {60, 43, 0}});
  for (std::size_t i = 0; i < noise.size(); ++i)
    packet.bytes[12 + (noise[i] * 7 + i) % (packet.bytes.size() - 12)] = static_cast<std::byte>(noise[i]);
  packet.bytes.resize(*rc::gen::inRange<std::size_t>(0, packet.bytes.size() + 1));
  RssHash(virtio::kHashAll, suite_key()).compute(Bytes(packet.bytes));
}

}  // namespace
}  // namespace causeway::net

#include "net/flow_hash.h"

#include "net/test_packets.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <array>
#include <set>

namespace causeway::net {
namespace {

using testing::make_packet;
using testing::Packet;
using testing::PacketShape;

/// What comes back in answer to a frame: source and destination of every layer exchanged.
std::vector<std::byte> answer_to(const Packet& packet) {
  auto bytes = packet.bytes;
  const auto exchange = [&bytes](std::size_t first, std::size_t second, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) std::swap(bytes[first + i], bytes[second + i]);
  };
  exchange(0, 6, 6);
  packet.is_ipv6 ? exchange(packet.ip + 8, packet.ip + 24, 16) : exchange(packet.ip + 12, packet.ip + 16, 4);
  exchange(packet.transport, packet.transport + 2, 2);
  return bytes;
}

std::vector<PacketShape> shapes() {
  return {PacketShape{},
          PacketShape{.is_ipv6 = true},
          PacketShape{.vlan_tags = 1},
          PacketShape{.vlan_tags = 2, .is_ipv6 = true},
          PacketShape{.ip_option_words = 3},
          PacketShape{.protocol = testing::kUdp},
          PacketShape{.is_ipv6 = true, .protocol = testing::kUdp}};
}

TEST(FlowHash, IsTheSameInBothDirections) {
  for (const PacketShape& shape : shapes()) {
    const Packet packet = make_packet(shape);
    EXPECT_EQ(flow_hash(packet.bytes), flow_hash(answer_to(packet)));
  }
}

TEST(FlowHash, DependsOnPortsAndAddresses) {
  for (const PacketShape& shape : shapes()) {
    const Packet packet = make_packet(shape);
    auto other_port = packet.bytes;
    other_port[packet.transport + 1] ^= std::byte{1};
    EXPECT_NE(flow_hash(packet.bytes), flow_hash(other_port));
    auto other_address = packet.bytes;
    other_address[packet.ip + (packet.is_ipv6 ? 23 : 15)] ^= std::byte{1};
    EXPECT_NE(flow_hash(packet.bytes), flow_hash(other_address));
  }
}

TEST(FlowHash, DoesNotDependOnPayloadMacAddressesOrTags) {
  for (const PacketShape& shape : shapes()) {
    const Packet packet = make_packet(shape);
    auto other = packet.bytes;
    other[packet.transport + 4] ^= std::byte{1};
    other[3] ^= std::byte{1};
    EXPECT_EQ(flow_hash(packet.bytes), flow_hash(other));
  }
  EXPECT_EQ(flow_hash(make_packet({}).bytes), flow_hash(make_packet({.vlan_tags = 2}).bytes));
}

TEST(FlowHash, KeepsAllFragmentsOfADatagramTogether) {
  auto first = make_packet({.protocol = testing::kUdp});
  auto second = first;
  put_be16(first.bytes, first.ip + 6, 0x2000);    // more fragments follow
  put_be16(second.bytes, second.ip + 6, 0x00b9);  // the last; where ports would be, there is payload
  put_be32(second.bytes, second.transport, 0x12345678);
  EXPECT_EQ(flow_hash(first.bytes), flow_hash(second.bytes));
}

TEST(FlowHash, UsesMacAddressesForWhatIsNotIp) {
  auto frame = make_packet({}).bytes;
  put_be16(frame, 12, 0x0806);
  auto other = frame;
  other[5] ^= std::byte{1};
  EXPECT_NE(flow_hash(frame), flow_hash(other));
  other = frame;
  other[20] ^= std::byte{1};
  EXPECT_EQ(flow_hash(frame), flow_hash(other));
}

TEST(FlowHash, SpreadsNeighbouringFlowsEvenly) {
  constexpr std::size_t kFlows = 16384;
  for (const bool is_ipv6 : {false, true}) {
    for (const std::size_t queues : {2U, 4U, 16U, 256U}) {
      std::vector<std::size_t> counts(queues);
      Packet packet = make_packet({.is_ipv6 = is_ipv6});
      for (std::size_t flow = 0; flow < kFlows; ++flow) {
        put_be16(packet.bytes, packet.transport, static_cast<std::uint16_t>(1024 + flow));
        ++counts[flow_hash(packet.bytes) % queues];
      }
      const auto [least, most] = std::ranges::minmax(counts);
      EXPECT_GT(least, kFlows / queues / 2) << queues << " queues";
      EXPECT_LT(most, 2 * kFlows / queues) << queues << " queues";
    }
  }
}

RC_GTEST_PROP(FlowHash, ReadsNoFurtherThanItsInput, (std::vector<std::uint8_t> noise)) {
  // The bytes lie at the end of an allocation of just their size, so that AddressSanitizer sees a read behind them.
  for (const PacketShape& shape : shapes()) {
    const auto whole = make_packet(shape).bytes;
    for (std::size_t length = 0; length <= std::min<std::size_t>(whole.size(), 80); ++length) {
      std::vector<std::byte> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      if (!cut.empty() && !noise.empty()) {
        const auto place = *rc::gen::inRange<std::size_t>(0, cut.size());
        cut[place] = static_cast<std::byte>(noise.front());
      }
      RC_ASSERT(flow_hash(cut) == flow_hash(cut));
    }
  }
}

}  // namespace
}  // namespace causeway::net

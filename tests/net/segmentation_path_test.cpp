// Large frames between guests: whole to a driver that takes them, cut in software for one that does not.

#include "net/control_commands.h"
#include "net/test_packets.h"
#include "net/two_guests.h"

#include <gtest/gtest.h>

#include <cstring>

namespace causeway::testing {
namespace {

using net::testing::Packet;
using virtio::FeatureSet, virtio::NetFeature;

constexpr std::uint16_t kSegment = 1200;
constexpr std::size_t kPayload = 6 * kSegment + 77;

struct Case {
  std::uint8_t protocol;
  bool is_ipv6;
};

class Segmentation : public ::testing::TestWithParam<Case> {
 protected:
  Segmentation()
      : packet_(net::testing::make_packet(
            {.is_ipv6 = GetParam().is_ipv6, .protocol = GetParam().protocol, .payload = kPayload})) {
    const net::EthernetHeader ethernet{.destination = kMacB, .source = kMacA, .ether_type = {0, 0}};
    std::memcpy(packet_.bytes.data(), &ethernet, 12);
  }
  static FakeGuestConfig sender() {
    return {.features = {NetFeature::csum, NetFeature::host_tso4, NetFeature::host_tso6, NetFeature::host_uso},
            .buffer_size = 16384};
  }
  void send(TwoGuests& net) const {
    ASSERT_TRUE(net.a->send(0, net::testing::header_for(packet_, kSegment), packet_.bytes));
    net.a->flush(0);
  }
  /// The payload of all segments, each of which is to be as long as a segment can be and to have a good checksum.
  std::vector<std::byte> collect(TwoGuests& net) const {
    std::vector<std::byte> payload;
    while (payload.size() < kPayload) {
      const auto arrival = await_frame(*net.b);
      if (!arrival) return payload;
      EXPECT_EQ(arrival->header.gso_type, virtio::kGsoNone);
      EXPECT_EQ(arrival->header.flags, 0);
      Packet part = packet_;
      part.bytes = arrival->frame;
      EXPECT_TRUE(net::testing::has_good_checksum(part));
      EXPECT_EQ(part.bytes.size() - part.payload, std::min<std::size_t>(kSegment, kPayload - payload.size()));
      payload.insert(payload.end(), part.bytes.begin() + static_cast<std::ptrdiff_t>(part.payload), part.bytes.end());
    }
    return payload;
  }

  Packet packet_;
};

TEST_P(Segmentation, IsDoneForADriverWithoutOffloads) {
  TwoGuests net(sender(), {});
  send(net);
  const auto payload = collect(net);
  EXPECT_TRUE(std::ranges::equal(payload, std::span(packet_.bytes).subspan(packet_.payload)));
}

TEST_P(Segmentation, IsLeftToADriverThatTakesLargeFrames) {
  TwoGuests net(sender(), {.features = {NetFeature::guest_csum, NetFeature::guest_tso4, NetFeature::guest_tso6,
                                        NetFeature::guest_uso4, NetFeature::guest_uso6},
                           .buffer_size = 16384});
  send(net);
  const auto arrival = await_frame(*net.b);
  ASSERT_TRUE(arrival);
  EXPECT_EQ(arrival->frame, packet_.bytes);
  EXPECT_EQ(arrival->header.gso_type, net::testing::header_for(packet_, kSegment).gso_type);
  EXPECT_EQ(arrival->header.gso_size, kSegment);
}

INSTANTIATE_TEST_SUITE_P(Packets, Segmentation,
                         ::testing::Values(Case{.protocol = net::testing::kTcp, .is_ipv6 = false},
                                           Case{.protocol = net::testing::kTcp, .is_ipv6 = true},
                                           Case{.protocol = net::testing::kUdp, .is_ipv6 = false},
                                           Case{.protocol = net::testing::kUdp, .is_ipv6 = true}),
                         [](const auto& test) {
                           return std::string(test.param.protocol == net::testing::kTcp ? "Tcp" : "Udp") +
                                  (test.param.is_ipv6 ? "Ipv6" : "Ipv4");
                         });

}  // namespace
}  // namespace causeway::testing

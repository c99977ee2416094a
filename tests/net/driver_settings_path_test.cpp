// What a driver decides by the control virtqueue, seen in the frames it gets.

#include "net/control_commands.h"
#include "net/rss_hash.h"
#include "net/test_packets.h"
#include "net/two_guests.h"

#include <gtest/gtest.h>

#include <cstring>

namespace causeway::testing {
namespace {

using net::testing::make_packet;
using virtio::FeatureSet, virtio::NetFeature;

constexpr std::uint16_t kPairs = 4;
constexpr std::uint8_t kKey = 0x6d;
const FeatureSet kRss{NetFeature::ctrl_vq, NetFeature::ctrl_rx, NetFeature::mq, NetFeature::rss};
const FeatureSet kOffloads{NetFeature::ctrl_vq, NetFeature::guest_csum, NetFeature::ctrl_guest_offloads};
const FeatureSet kAnnounce{NetFeature::ctrl_vq, NetFeature::ctrl_rx, NetFeature::status, NetFeature::guest_announce};

/// A UDP packet from A to B, from a port of its own.
std::vector<std::byte> packet_to_b(std::uint16_t source_port, bool is_ipv6 = false) {
  auto packet = make_packet({.is_ipv6 = is_ipv6, .protocol = net::testing::kUdp});
  const net::EthernetHeader ethernet{.destination = kMacB, .source = kMacA, .ether_type = {0, 0}};
  std::memcpy(packet.bytes.data(), &ethernet, 12);
  net::put_be16(packet.bytes, packet.transport, source_port);
  return packet.bytes;
}

void send_from_a(TwoGuests& net, const std::vector<std::byte>& frame, const virtio::NetHeader& header = {}) {
  net.a->reap(0);
  ASSERT_TRUE(net.a->send(0, header, frame));
  net.a->flush(0);
}

std::uint16_t status_of(const port::Port& port) {
  std::uint16_t status = 0;
  EXPECT_TRUE(port.read_config(offsetof(virtio::NetConfig, status), std::as_writable_bytes(std::span(&status, 1))));
  return status;
}

TEST(Rss, GivesEachFlowToTheQueueThatItsHashNames) {
  TwoGuests net({}, {.features = kRss, .queue_pairs = kPairs});
  const std::vector<std::uint16_t> table{2, 0, 3, 1};
  ASSERT_EQ(answer_of(net, rss_config(virtio::kHashUdp4, 1, table, kPairs, kKey)), virtio::kCtrlOk);
  const net::RssHash hash(virtio::kHashUdp4, std::vector(40, std::byte{kKey}));
  std::array<int, kPairs> got{};
  for (std::uint16_t port = 1000; port < 1064; ++port) {
    const auto frame = packet_to_b(port);
    const std::uint16_t pair = table[hash.compute(frame).value % 4];
    send_from_a(net, frame);
    const auto arrival = await_frame(*net.b, pair);
    ASSERT_TRUE(arrival) << "port " << port << " is for pair " << pair;
    EXPECT_EQ(arrival->frame, frame);
    ++got[pair];
  }
  for (const int count : got) EXPECT_GT(count, 0) << "the flows were to spread over all pairs";
  const auto other = packet_to_b(1000, true);
  send_from_a(net, other);
  const auto arrival = await_frame(*net.b, 1);
  ASSERT_TRUE(arrival) << "IPv6 is not classified";
  EXPECT_EQ(arrival->frame, other);
}

TEST(Rss, IsReplayedToADeviceThatIsBoundLater) {
  TwoGuests net({}, {.features = kRss, .queue_pairs = kPairs});
  ASSERT_EQ(answer_of(net, rss_config(virtio::kHashUdp4, 3, {3}, kPairs, kKey)), virtio::kCtrlOk);
  for (const char* device : {"soft-b", "soft-a"}) {
    for (std::uint16_t queue = 0; queue < 2 * kPairs; ++queue)
      ASSERT_TRUE(net.port_b->rebind(virtio::QueueIndex{queue}, device));
    send_from_a(net, packet_to_b(1000));
    EXPECT_TRUE(await_frame(*net.b, 3)) << "after the move to " << device;
  }
}

TEST(GuestOffloads, FollowTheDriver) {
  TwoGuests net({.features = {NetFeature::csum}}, {.features = kOffloads});
  auto packet = make_packet({});
  const net::EthernetHeader ethernet{.destination = kMacB, .source = kMacA, .ether_type = {0, 0}};
  std::memcpy(packet.bytes.data(), &ethernet, 12);
  const auto header = net::testing::header_for(packet);
  const auto get = [&] {
    send_from_a(net, packet.bytes, header);
    return await_frame(*net.b);
  };
  auto arrival = get();
  ASSERT_TRUE(arrival);
  EXPECT_EQ(arrival->header.flags, virtio::kNetHeaderNeedsCsum);
  ASSERT_EQ(answer_of(net, ControlCommand(5, 0).put(0, 8)), virtio::kCtrlOk);
  for (const char* device : {"soft-a", "soft-b", "soft-a"}) {
    ASSERT_TRUE(net.port_b->rebind(virtio::QueueIndex{0}, device));
    arrival = get();
    ASSERT_TRUE(arrival);
    EXPECT_EQ(arrival->header.flags, 0) << "on " << device;
    auto got = packet;
    got.bytes = arrival->frame;
    EXPECT_TRUE(net::testing::has_good_checksum(got)) << "on " << device;
  }
  ASSERT_EQ(answer_of(net, ControlCommand(5, 0).put(FeatureSet{NetFeature::guest_csum}.bits(), 8)), virtio::kCtrlOk);
  arrival = get();
  ASSERT_TRUE(arrival);
  EXPECT_EQ(arrival->header.flags, virtio::kNetHeaderNeedsCsum);
}

TEST(Announce, IsSentByUsWhileTheControlQueueIsSomebodyElses) {
  TwoGuests net({}, {.features = kAnnounce});
  ASSERT_TRUE(net.port_b->announce(std::as_bytes(std::span(kMacB.bytes))));
  const auto arrival = await_frame(*net.a);
  ASSERT_TRUE(arrival);
  ASSERT_EQ(arrival->frame.size(), 60U);
  EXPECT_EQ(net::be16(arrival->frame, 12), net::kEtherTypeRarp);
  EXPECT_EQ(status_of(*net.port_b), virtio::kNetStatusLinkUp);
  EXPECT_EQ(net.b->config_changes(), 0U);
}

TEST(Announce, IsTheDriversTaskWhenItsCommandsComeHere) {
  TwoGuests net({}, {.features = kAnnounce});
  ASSERT_EQ(answer_of(net, ControlCommand(0, 0).put(0, 1)), virtio::kCtrlOk);
  ASSERT_TRUE(net.port_b->announce(std::as_bytes(std::span(kMacB.bytes))));
  EXPECT_EQ(net.b->config_changes(), 1U);
  EXPECT_EQ(status_of(*net.port_b), virtio::kNetStatusLinkUp | virtio::kNetStatusAnnounce);
  EXPECT_EQ(answer_of(net, ControlCommand(3, 0)), virtio::kCtrlOk);
  EXPECT_EQ(status_of(*net.port_b), virtio::kNetStatusLinkUp);
  EXPECT_EQ(net.b->config_changes(), 1U) << "the driver knows";
  EXPECT_FALSE(net.a->receive(0)) << "nothing was sent by us";
}

TEST(MacAddress, OfTheDriverShowsInTheConfigurationSpace) {
  TwoGuests net({}, {.features = {NetFeature::ctrl_vq, NetFeature::ctrl_mac_addr}});
  ASSERT_EQ(answer_of(net, ControlCommand(1, 1).put(0x060504030252, 6)), virtio::kCtrlOk);
  net::MacAddress mac;
  ASSERT_TRUE(net.port_b->read_config(0, std::as_writable_bytes(std::span(mac.bytes))));
  EXPECT_EQ(mac, (net::MacAddress{{0x52, 2, 3, 4, 5, 6}}));
}

}  // namespace
}  // namespace causeway::testing

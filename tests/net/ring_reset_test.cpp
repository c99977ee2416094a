// RING_RESET: one queue pair is reset and started again on other rings, while the other pair goes on. Spec: 2.6.1.

#include "net/control_commands.h"
#include "net/test_packets.h"
#include "net/two_guests.h"

#include <gtest/gtest.h>

#include <cstring>

namespace causeway::testing {
namespace {

using virtio::Feature, virtio::FeatureSet, virtio::NetFeature;

/// Frames that B's first pair gets, and those for its second: RSS sends what is not UDP to the first.
std::vector<std::byte> frame_for(std::uint16_t pair) {
  auto packet =
      net::testing::make_packet({.protocol = pair == 1 ? net::testing::kUdp : net::testing::kTcp, .payload = 50});
  const net::EthernetHeader ethernet{.destination = kMacB, .source = kMacA, .ether_type = {0, 0}};
  std::memcpy(packet.bytes.data(), &ethernet, 12);
  return packet.bytes;
}

void send(FakeGuest& guest, std::uint16_t pair, const std::vector<std::byte>& frame) {
  guest.reap(pair);
  ASSERT_TRUE(guest.send(pair, {}, frame));
  guest.flush(pair);
}

class RingReset : public ::testing::TestWithParam<FeatureSet> {};

TEST_P(RingReset, OfOnePairLeavesTheOtherAlone) {
  const auto features =
      GetParam() | FeatureSet{NetFeature::ctrl_vq, NetFeature::mq, NetFeature::rss} | FeatureSet{Feature::ring_reset};
  TwoGuests net({}, {.features = features, .queue_pairs = 2});
  ASSERT_EQ(answer_of(net, rss_config(virtio::kHashUdp4, 0, {1}, 2, 0x6d)), virtio::kCtrlOk);
  for (const std::uint16_t pair : {std::uint16_t{0}, std::uint16_t{1}}) {
    send(*net.a, 0, frame_for(pair));
    ASSERT_TRUE(await_frame(*net.b, pair)) << "before the reset, pair " << pair;
  }

  for (const std::uint16_t queue : {std::uint16_t{2}, std::uint16_t{3}}) ASSERT_TRUE(net.b->reset_queue(queue));
  // What is for the queue that is reset is lost, and holds nothing up (5.1.6.5.7.2).
  for (int i = 0; i < 300; ++i) {
    send(*net.a, 0, frame_for(1));
    send(*net.a, 0, frame_for(0));
    ASSERT_TRUE(await_frame(*net.b, 0)) << "during the reset";
  }
  auto reply = frame_for(0);
  const net::EthernetHeader back{.destination = kMacA, .source = kMacB, .ether_type = {0, 0}};
  std::memcpy(reply.data(), &back, 12);
  send(*net.b, 0, reply);
  ASSERT_TRUE(await_frame(*net.a)) << "sent during the reset";

  for (const std::uint16_t queue : {std::uint16_t{2}, std::uint16_t{3}}) {
    const auto started = net.b->restart_queue(queue);
    ASSERT_TRUE(started) << started.error().text();
  }
  for (int i = 0; i < 300; ++i) {
    for (const std::uint16_t pair : {std::uint16_t{0}, std::uint16_t{1}}) {
      send(*net.a, 0, frame_for(pair));
      const auto arrival = await_frame(*net.b, pair);
      ASSERT_TRUE(arrival) << "after the reset, pair " << pair;
      EXPECT_EQ(arrival->frame, frame_for(pair));
      send(*net.b, pair, reply);
      ASSERT_TRUE(await_frame(*net.a)) << "after the reset, sent by pair " << pair;
    }
  }
  EXPECT_FALSE(net.b->is_broken());
}

INSTANTIATE_TEST_SUITE_P(Layouts, RingReset,
                         ::testing::Values(FeatureSet{}, FeatureSet{Feature::ring_packed},
                                           FeatureSet{Feature::event_idx, Feature::in_order}));

}  // namespace
}  // namespace causeway::testing

// Guests on a switch, seen from their drivers.

#include "net/two_guests.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>

namespace causeway::testing {
namespace {

using virtio::NetFeature;

constexpr net::MacAddress kStranger{{0x52, 0x54, 0, 0, 0, 0xc}};

std::vector<std::byte> make_frame(net::MacAddress to, net::MacAddress from, std::size_t size) {
  std::vector<std::byte> frame(size);
  const net::EthernetHeader ethernet{.destination = to, .source = from, .ether_type = {0x88, 0xb5}};
  std::memcpy(frame.data(), &ethernet, sizeof ethernet);
  for (std::size_t i = sizeof ethernet; i < size; ++i) frame[i] = static_cast<std::byte>(i);
  return frame;
}

void send(FakeGuest& guest, const std::vector<std::byte>& frame) {
  ASSERT_TRUE(guest.send(0, {}, frame));
  guest.flush(0);
}

/// Waits for the next frame; generous, since only a lost frame ends it.
std::optional<FakeGuest::Arrival> await(FakeGuest& guest) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (std::chrono::steady_clock::now() < end) {
    if (auto arrival = guest.receive(0)) return arrival;
    std::this_thread::yield();
  }
  return std::nullopt;
}

TEST(Switch, CarriesAFrameToTheGuestItIsFor) {
  TwoGuests net({}, {});
  const auto frame = make_frame(kMacB, kMacA, 1514);
  send(*net.a, frame);
  const auto arrival = await(*net.b);
  ASSERT_TRUE(arrival) << "the frame did not come";
  EXPECT_EQ(arrival->frame, frame);
  EXPECT_EQ(arrival->header.num_buffers, 1);
}

TEST(Switch, SpreadsAFrameOverMergeableBuffers) {
  const FakeGuestConfig sender{.features = {}, .buffer_size = 4096};
  const FakeGuestConfig receiver{.features = {NetFeature::mrg_rxbuf}, .buffer_size = 256};
  TwoGuests net(sender, receiver);
  const auto frame = make_frame(kMacB, kMacA, 1514);
  send(*net.a, frame);
  const auto arrival = await(*net.b);
  ASSERT_TRUE(arrival);
  EXPECT_EQ(arrival->frame, frame);
  EXPECT_EQ(arrival->header.num_buffers, (1514 + 12 + 255) / 256);
}

TEST(Switch, GivesABroadcastToEverybodyElse) {
  TwoGuests net({}, {.features = {NetFeature::ctrl_vq, NetFeature::ctrl_rx}});
  send(*net.a, make_frame(net::MacAddress{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}, kMacA, 61));
  const auto arrival = await(*net.b);
  ASSERT_TRUE(arrival);
  EXPECT_EQ(arrival->frame.size(), 61U);
  EXPECT_FALSE(net.a->receive(0)) << "the sender gets nothing back";
}

TEST(Switch, DropsAFrameThatDoesNotFitAndGoesOn) {
  TwoGuests net({.features = {}, .buffer_size = 4096}, {.features = {}, .buffer_size = 1600});
  send(*net.a, make_frame(kMacB, kMacA, 3000));
  send(*net.a, make_frame(kMacB, kMacA, 100));
  const auto arrival = await(*net.b);
  ASSERT_TRUE(arrival);
  EXPECT_EQ(arrival->frame.size(), 100U);
  const auto counters = net.port_b->report().queues[0].counters;
  const auto too_long = std::ranges::find(counters, std::string_view("dropped_too_long"), &vdpa::Counter::name);
  ASSERT_NE(too_long, counters.end());
  EXPECT_EQ(too_long->value, 1U);
}

TEST(Switch, FollowsAnAddressThatMoves) {
  TwoGuests net({}, {});
  send(*net.a, make_frame(kMacB, kStranger, 60));
  ASSERT_TRUE(await(*net.b));
  send(*net.b, make_frame(kMacA, kStranger, 60));
  ASSERT_TRUE(await(*net.a)) << "to A's own address, which is still unknown";
  // The stranger now lives on B's port, so what A sends to it must reach B's driver, if that takes all.
  send(*net.a, make_frame(kStranger, kMacA, 77));
  const auto arrival = await(*net.b);
  ASSERT_TRUE(arrival);
  EXPECT_EQ(arrival->frame.size(), 77U);
}

TEST(Port, ReportsABrokenRingAndLeavesTheOtherPortAlone) {
  TwoGuests net({}, {});
  // More bytes than the buffer area has: the last buffer's chain ends behind the end of memory.
  ASSERT_TRUE(net.a->send_again(0, 1U << 30));
  net.a->flush(0);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!net.port_a->report().queues[1].failed && std::chrono::steady_clock::now() < end) net.loop.run_ready();
  EXPECT_TRUE(net.port_a->report().queues[1].failed);
  EXPECT_TRUE(vdpa::has(net.port_a->status(), vdpa::Status::needs_reset));
  EXPECT_FALSE(vdpa::has(net.port_b->status(), vdpa::Status::needs_reset));
  send(*net.b, make_frame(kMacA, kMacB, 60));
  EXPECT_TRUE(await(*net.a)) << "A's receive queue is not the broken one";
}

}  // namespace
}  // namespace causeway::testing

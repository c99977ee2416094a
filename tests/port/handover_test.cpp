// A port with a network device goes to another process while frames flow.

#include "net/two_guests.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>
#include <tuple>

#include "support/driver_side.h"

namespace causeway::testing {
namespace {

using port::RecordFormat;
using virtio::Feature, virtio::FeatureSet;

constexpr auto kLimit = std::chrono::seconds(30);
constexpr FakeGuestConfig guest_config(FeatureSet features) {
  return {.features = features, .ring_size = 64};
}

struct HandoverTest : ::testing::TestWithParam<std::tuple<FeatureSet, RecordFormat>> {
  HandoverTest()
      : worker(value_or_die(Worker::start({.name = "test", .cpu = {}}))),
        bridge(*worker, "sw0"),
        link(bridge.add_port("b")),
        port_a(make_nic_port(loop, bridge.add_port("a"), kMacA, 1)),
        port_b(make_nic_port(loop, link, kMacB, 1)),
        a(value_or_die(FakeGuest::plug_in(*port_a, guest_config(std::get<0>(GetParam()))))),
        b(value_or_die(FakeGuest::plug_in(*port_b, guest_config(std::get<0>(GetParam()))))) {}

  /// B's port goes over; both are connected to the same link here, which takes the place of what two processes share.
  void hand_over() {
    ParcelWriter estate;
    port_b->hand_over(estate, std::get<1>(GetParam()));
    ParcelReader reader(arrived(estate));
    auto next = make_nic_port(loop, link, kMacB, 1);
    ASSERT_TRUE(next->attach(*b));
    const auto taken = next->take_over(reader);
    ASSERT_TRUE(taken) << taken.error().text();
    ASSERT_TRUE(reader.finish());
    ParcelWriter paused;
    port_b->pause(paused);
    ParcelReader positions(arrived(paused));
    ASSERT_TRUE(next->start_at(positions));
    port_b = std::move(next);
    b->is_now_on(*port_b);
  }

  /// Sends a numbered frame as soon as there is room.
  void send(std::uint32_t number) {
    std::vector<std::byte> frame(60 + number % 1000);
    const net::EthernetHeader ethernet{.destination = kMacB, .source = kMacA, .ether_type = {0x88, 0xb5}};
    std::memcpy(frame.data(), &ethernet, sizeof ethernet);
    std::memcpy(frame.data() + sizeof ethernet, &number, sizeof number);
    const auto end = std::chrono::steady_clock::now() + kLimit;
    while (!a->send(0, {}, frame)) {
      a->reap(0);
      ASSERT_LT(std::chrono::steady_clock::now(), end);
    }
    a->flush(0);
  }

  std::optional<std::uint32_t> received() {
    const auto arrival = b->receive(0);
    if (!arrival) return std::nullopt;
    std::uint32_t number = 0;
    std::memcpy(&number, arrival->frame.data() + sizeof(net::EthernetHeader), sizeof number);
    return number;
  }

  Loop loop;
  std::unique_ptr<Worker> worker;
  net::Switch bridge;
  std::shared_ptr<net::Link> link;
  std::unique_ptr<port::Port> port_a;
  std::unique_ptr<port::Port> port_b;
  std::unique_ptr<FakeGuest> a;
  std::unique_ptr<FakeGuest> b;
};

TEST_P(HandoverTest, NoFrameIsLostRepeatedOrReordered) {
  constexpr std::uint32_t kFrames = 20'000;
  constexpr std::uint32_t kWindow = 40;  // fewer than B has buffers
  std::uint32_t sent = 0;
  std::uint32_t expected = 0;
  std::uint32_t moves = 0;
  const auto end = std::chrono::steady_clock::now() + 2 * kLimit;
  while (expected < kFrames) {
    ASSERT_LT(std::chrono::steady_clock::now(), end) << expected << " of " << kFrames;
    for (int i = 0; i < 20 && sent < kFrames && sent - expected < kWindow; ++i) send(sent++);
    while (const auto number = received()) ASSERT_EQ(*number, expected++);
    if (sent >= 100 * (moves + 1)) {
      hand_over();
      ++moves;
    }
  }
  EXPECT_GE(moves, 150U);
  EXPECT_FALSE(a->is_broken() || b->is_broken());
}

TEST_P(HandoverTest, APortThatIsTooSmallIsRefused) {
  ParcelWriter estate;
  port_b->hand_over(estate, std::get<1>(GetParam()));
  ParcelReader reader(arrived(estate));
  const auto next = make_nic_port(loop, link, kMacB, 2);
  ASSERT_TRUE(next->attach(*b));
  const auto taken = next->take_over(reader);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().text(), "port b had 3 queues, and has 5 now");
}

INSTANTIATE_TEST_SUITE_P(Layouts, HandoverTest,
                         ::testing::Combine(::testing::Values(FeatureSet(), FeatureSet{Feature::ring_packed}),
                                            ::testing::Values(RecordFormat::first, RecordFormat::current)),
                         [](const auto& each) {
                           return fmt::format("{}Format{}",
                                              std::get<0>(each.param) == FeatureSet() ? "Split" : "Packed",
                                              std::to_underlying(std::get<1>(each.param)));
                         });

}  // namespace
}  // namespace causeway::testing

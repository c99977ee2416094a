// A link that is down carries nothing in either direction, and everything again once it is up.

#include "net/control_commands.h"
#include "net/two_guests.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

namespace causeway::testing {
namespace {

/// Sends a frame and waits until the device has consumed it, delivered or not.
void send_and_reap(FakeGuest& from, const net::MacAddress& source, const net::MacAddress& destination) {
  std::vector<std::byte> frame(100);
  const net::EthernetHeader ethernet{.destination = destination, .source = source, .ether_type = {0x88, 0xb5}};
  std::memcpy(frame.data(), &ethernet, sizeof ethernet);
  ASSERT_TRUE(from.send(0, {}, frame));
  from.flush(0);
  const auto end = std::chrono::steady_clock::now() + kWaitLimit;
  while (from.reap(0) == 0) ASSERT_LT(std::chrono::steady_clock::now(), end) << "the device consumes nothing";
}

std::uint64_t counter(const port::Port& port, std::uint16_t queue, std::string_view name) {
  const auto counters = port.report().queues.at(queue).counters;
  const auto found = std::ranges::find(counters, name, &vdpa::Counter::name);
  return found == counters.end() ? 0 : found->value;
}

TEST(LinkState, DownCarriesNothing) {
  Loop loop;
  const auto worker = value_or_die(Worker::start({.name = "test", .polling = Polling::adaptive, .cpu = std::nullopt}));
  net::Switch bridge(*worker, "sw0");
  const std::shared_ptr<net::Link> link_b = bridge.add_port("b");
  const auto port_a = make_nic_port(loop, bridge.add_port("a"), kMacA, 1);
  const auto port_b = make_nic_port(loop, link_b, kMacB, 1);
  const auto a = value_or_die(FakeGuest::plug_in(*port_a, {}));
  const auto b = value_or_die(FakeGuest::plug_in(*port_b, {}));

  send_and_reap(*a, kMacA, kMacB);
  ASSERT_TRUE(await_frame(*b));
  worker->run([&] { link_b->set_up(false); });
  send_and_reap(*a, kMacA, kMacB);
  send_and_reap(*b, kMacB, kMacA);
  EXPECT_FALSE(b->receive(0));
  EXPECT_FALSE(a->receive(0));
  EXPECT_EQ(counter(*port_b, 1, "dropped_disabled"), 1U);
  worker->run([&] { link_b->set_up(true); });
  send_and_reap(*a, kMacA, kMacB);
  send_and_reap(*b, kMacB, kMacA);
  EXPECT_TRUE(await_frame(*b));
  EXPECT_TRUE(await_frame(*a));
}

}  // namespace
}  // namespace causeway::testing

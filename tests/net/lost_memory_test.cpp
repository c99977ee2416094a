// Guest memory that is truncated under us stops its port, not the daemon.

#include "base/mapping.h"
#include "net/two_guests.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>

namespace causeway::testing {
namespace {

std::vector<std::byte> frame_to(net::MacAddress to, net::MacAddress from) {
  std::vector<std::byte> frame(60);
  const net::EthernetHeader ethernet{.destination = to, .source = from, .ether_type = {0x88, 0xb5}};
  std::memcpy(frame.data(), &ethernet, sizeof ethernet);
  return frame;
}

TEST(LostMemory, StopsItsPortAndLeavesTheOtherAlone) {
  const auto event = std::make_shared<const EventFd>(value_or_die(EventFd::make()));
  ASSERT_TRUE(survive_lost_mappings(event));
  TwoGuests net({}, {});
  const auto watch = net.loop.watch(event->fd(), [&] {
    event->drain();
    net.port_a->check_memory();
    net.port_b->check_memory();
  });
  net.a->truncate_memory();
  // The switch's worker runs into the hole as soon as it writes into A's receive ring.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (net.a->memory_losses() == 0 && std::chrono::steady_clock::now() < end) {
    net.b->reap(0);
    net.b->send(0, {}, frame_to(kMacA, kMacB));
    net.b->flush(0);
    net.loop.run_ready();
  }
  EXPECT_EQ(net.a->memory_losses(), 1U) << "A's port was not told";
  EXPECT_TRUE(net.port_a->is_suspended());
  EXPECT_TRUE(vdpa::has(net.port_a->status(), vdpa::Status::needs_reset));
  EXPECT_FALSE(net.port_b->is_suspended());
  EXPECT_EQ(net.b->memory_losses(), 0U);
  EXPECT_FALSE(vdpa::has(net.port_b->status(), vdpa::Status::needs_reset));
}

}  // namespace
}  // namespace causeway::testing

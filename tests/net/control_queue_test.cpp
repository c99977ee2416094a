// The control virtqueue: read by the Port, applied to every Device that is bound, replayed to one that is bound later.

#include "net/control_commands.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstring>
#include <thread>

namespace causeway::testing {
namespace {

using virtio::NetFeature;

constexpr net::MacAddress kStranger{{0x52, 0x54, 0, 0, 0, 0xc}};
const FakeGuestConfig kControlled{.features = {NetFeature::ctrl_vq, NetFeature::ctrl_rx, NetFeature::ctrl_mac_addr}};

/// The device's answer to a command of B's driver; 255 when none came.
int command(TwoGuests& net, std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  net.b->send_control(bytes);
  const auto end = std::chrono::steady_clock::now() + kWaitLimit;
  while (std::chrono::steady_clock::now() < end) {
    net.loop.run_ready();
    if (const auto ack = net.b->poll_control()) return *ack;
  }
  return 255;
}

/// Sends one frame to `first`, then one to B's own address, and says how long the first frame is that B gets.
std::size_t first_arrival(TwoGuests& net, net::MacAddress first) {
  send_to_each(net, std::array{first, kMacB});
  const auto end = std::chrono::steady_clock::now() + kWaitLimit;
  std::size_t arrived = 0;
  while (std::chrono::steady_clock::now() < end) {
    const auto arrival = net.b->receive(0);
    if (arrival && arrived == 0) arrived = arrival->frame.size();
    if (arrival && arrival->frame.size() == 101) return arrived;
    std::this_thread::yield();
  }
  return 0;
}

TEST(ControlQueue, TurnsPromiscuousModeOffAndOn) {
  TwoGuests net({}, kControlled);
  EXPECT_EQ(first_arrival(net, kStranger), 100U) << "a new driver gets everything";
  EXPECT_EQ(command(net, {0, 0, 0}), virtio::kCtrlOk);
  EXPECT_EQ(first_arrival(net, kStranger), 101U) << "only what is for it";
  EXPECT_EQ(command(net, {0, 0, 1}), virtio::kCtrlOk);
  EXPECT_EQ(first_arrival(net, kStranger), 100U);
}

TEST(ControlQueue, RefusesABadCommandAndGoesOn) {
  TwoGuests net({}, kControlled);
  EXPECT_EQ(command(net, {99, 0}), virtio::kCtrlErr);
  EXPECT_EQ(command(net, {0, 0, 0}), virtio::kCtrlOk);
}

TEST(ControlQueue, IsReplayedToADeviceThatIsBoundLater) {
  TwoGuests net({}, kControlled);
  ASSERT_EQ(command(net, {0, 0, 0}), virtio::kCtrlOk);
  for (const char* device : {"soft-b", "soft-a", "soft-b"}) {
    for (const std::uint16_t queue : {std::uint16_t{0}, std::uint16_t{1}}) {
      const auto moved = net.port_b->rebind(virtio::QueueIndex{queue}, device);
      ASSERT_TRUE(moved) << moved.error().text();
    }
    EXPECT_EQ(first_arrival(net, kStranger), 101U) << "after the move to " << device;
  }
}

TEST(ControlQueue, CannotBeRebound) {
  TwoGuests net({}, kControlled);
  EXPECT_FALSE(net.port_b->rebind(virtio::QueueIndex{2}, "soft-b"));
}

}  // namespace
}  // namespace causeway::testing

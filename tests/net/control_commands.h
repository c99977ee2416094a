// Commands of the control virtqueue for tests, their answers, and frames that show what they do.
#pragma once

#include "net/two_guests.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <thread>
#include <vector>

namespace causeway::testing {

/// Generous, since only what is lost ends a wait.
inline constexpr auto kWaitLimit = std::chrono::seconds(30);

/// A command built field by field, least significant byte first.
class ControlCommand {
 public:
  ControlCommand(std::uint8_t type, std::uint8_t command) { put(type, 1).put(command, 1); }
  ControlCommand& put(std::uint64_t value, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) bytes_.push_back(static_cast<std::byte>(value >> (8 * i) & 0xff));
    return *this;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// RSS_CONFIG with a key of 40 bytes of `key`.
inline ControlCommand rss_config(std::uint32_t types, std::uint16_t unclassified,
                                 const std::vector<std::uint16_t>& table, std::uint16_t pairs, std::uint8_t key) {
  ControlCommand command(4, 1);
  command.put(types, 4).put(table.size() - 1, 2).put(unclassified, 2);
  for (const std::uint16_t entry : table) command.put(entry, 2);
  command.put(pairs, 2).put(40, 1);
  for (int i = 0; i < 40; ++i) command.put(key, 1);
  return command;
}

/// The device's answer to a command of B's driver; 255 when none came.
inline int answer_of(TwoGuests& net, const ControlCommand& command) {
  net.b->send_control(command.bytes());
  const auto end = std::chrono::steady_clock::now() + kWaitLimit;
  while (std::chrono::steady_clock::now() < end) {
    net.loop.run_ready();
    if (const auto ack = net.b->poll_control()) return *ack;
  }
  return 255;
}

/// The next frame that `guest` gets on `pair`.
inline std::optional<FakeGuest::Arrival> await_frame(FakeGuest& guest, std::uint16_t pair = 0) {
  const auto end = std::chrono::steady_clock::now() + kWaitLimit;
  while (std::chrono::steady_clock::now() < end) {
    if (auto arrival = guest.receive(pair)) return arrival;
    std::this_thread::yield();
  }
  return std::nullopt;
}

inline constexpr std::size_t kFirstLength = 100;
/// A sends a frame to each, of one byte more than the one before, the first of kFirstLength.
inline void send_to_each(TwoGuests& net, std::span<const net::MacAddress> addresses) {
  std::size_t size = kFirstLength;
  for (const net::MacAddress& to : addresses) {
    std::vector<std::byte> frame(size++);
    const net::EthernetHeader ethernet{.destination = to, .source = kMacA, .ether_type = {0x88, 0xb5}};
    std::memcpy(frame.data(), &ethernet, sizeof ethernet);
    net.a->reap(0);
    EXPECT_TRUE(net.a->send(0, {}, frame));
    net.a->flush(0);
  }
}

}  // namespace causeway::testing

// Commands of the control virtqueue for tests, and their answers.
#pragma once

#include "net/two_guests.h"

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <optional>
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

}  // namespace causeway::testing

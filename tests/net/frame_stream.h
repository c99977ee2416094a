// Numbered frames from one guest to another: what comes must be what was sent, in order, once each.
#pragma once

#include "base/loop.h"
#include "net/ethernet.h"
#include "net/two_guests.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "support/fake_guest.h"

namespace causeway::testing {

inline std::vector<std::byte> numbered(std::uint32_t number, net::MacAddress to, net::MacAddress from) {
  std::vector<std::byte> frame(60 + number % 1400, static_cast<std::byte>(number));
  const net::EthernetHeader ethernet{.destination = to, .source = from, .ether_type = {0x88, 0xb5}};
  std::memcpy(frame.data(), &ethernet, sizeof ethernet);
  std::memcpy(frame.data() + sizeof ethernet, &number, sizeof number);
  return frame;
}

/// One direction, on the guests' first pairs.
struct Stream {
  FakeGuest& from;
  FakeGuest& to;
  net::MacAddress source;
  net::MacAddress target;
  std::uint32_t count;    ///< frames to be sent
  bool may_lose = false;  ///< those that are on their way when a queue stops
  std::uint32_t sent = 0;
  std::uint32_t next = 0;      ///< the least number that may come
  std::uint32_t given_up = 0;  ///< those below are waited for no more; they may come all the same
  std::uint32_t came = 0;
  std::string complaint = {};
  std::chrono::steady_clock::time_point progress = std::chrono::steady_clock::now();

  void turn(std::uint32_t window = 100) {
    from.reap(0);
    while (sent < count && sent - answered() < window && from.send(0, {}, numbered(sent, target, source))) ++sent;
    from.flush(0);
    drain();
    if (may_lose && std::chrono::steady_clock::now() - progress > std::chrono::milliseconds(100)) given_up = sent;
  }
  /// Those below have come, or are lost as far as one can tell.
  std::uint32_t answered() const { return std::max(next, given_up); }
  bool is_over() const { return answered() == count; }
  void drain() {
    while (const auto arrival = to.receive(0)) {
      std::uint32_t number = 0;
      std::memcpy(&number, arrival->frame.data() + sizeof(net::EthernetHeader), sizeof number);
      const bool is_right =
          arrival->frame == numbered(number, target, source) && (may_lose ? number >= next : number == next);
      if (!is_right && complaint.empty()) complaint = fmt::format("frame {} where {} is due", number, next);
      next = number + 1;
      ++came;
      progress = std::chrono::steady_clock::now();
    }
  }
};

/// Both directions between guests A and B until `count` frames have come each way, with `between()` after each hundred.
/// `may_lose`: frames from B. False, with the reason as a failure of the test: not within a minute, or not as sent.
template <class Between>
bool exchange_frames(Loop& loop, FakeGuest& a, FakeGuest& b, std::uint32_t count, Between between,
                     bool may_lose = false) {
  Stream out{.from = a, .to = b, .source = kMacA, .target = kMacB, .count = count};
  Stream in{.from = b, .to = a, .source = kMacB, .target = kMacA, .count = count, .may_lose = may_lose};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  std::uint32_t next = 100;
  while (!out.is_over() || !in.is_over()) {
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "sent " << out.sent << ", got " << out.came << "; back " << in.sent << ", " << in.came;
      return false;
    }
    // The switch learns where A is before B sends to it.
    const bool is_known = out.came != 0;
    out.turn(is_known ? 100 : 1);
    if (is_known) in.turn();
    loop.run_ready();
    if (out.came + in.came < next) continue;
    between();
    if (::testing::Test::HasFatalFailure()) return false;
    next += 100;
  }
  EXPECT_EQ(out.complaint, "");
  EXPECT_EQ(in.complaint, "");
  EXPECT_FALSE(a.is_broken() || b.is_broken());
  return !::testing::Test::HasFailure();
}

}  // namespace causeway::testing

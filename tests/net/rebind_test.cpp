// Rebind under traffic: the invariant that everything rests on. Nothing lost, repeated or reordered (N2, S8, S11).

#include "net/two_guests.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

namespace causeway::testing {
namespace {

using std::chrono::steady_clock;
using virtio::QueueIndex;

constexpr std::uint64_t kRebinds = 10'000;
constexpr std::uint64_t kWindow = 128;  // frames on their way; below the receive ring, so that none may be dropped
constexpr auto kStall = std::chrono::seconds(60);

/// A frame that proves what it is: its number, and bytes that follow from it.
std::vector<std::byte> numbered_frame(std::uint64_t sequence) {
  std::vector<std::byte> frame(60 + sequence % 1400);
  const net::EthernetHeader ethernet{.destination = kMacB, .source = kMacA, .ether_type = {0x88, 0xb5}};
  std::memcpy(frame.data(), &ethernet, sizeof ethernet);
  std::memcpy(frame.data() + sizeof ethernet, &sequence, sizeof sequence);
  for (std::size_t i = sizeof ethernet + sizeof sequence; i < frame.size(); ++i) {
    frame[i] = static_cast<std::byte>((sequence * 31 + i) & 0xff);
  }
  return frame;
}

/// Sends and receives on both guests until told to stop and all that was sent has come; what went wrong, or "".
std::string run_stream(TwoGuests& net, const std::atomic<bool>& stop, std::atomic<std::uint64_t>& delivered) {
  std::uint64_t sent = 0;
  std::uint64_t got = 0;
  auto last_progress = steady_clock::now();
  while (!stop.load() || got < sent) {
    net.a->reap(0);
    while (!stop.load() && sent - got < kWindow && net.a->send(0, {}, numbered_frame(sent))) ++sent;
    net.a->flush(0);
    while (const auto arrival = net.b->receive(0)) {
      if (arrival->frame != numbered_frame(got)) return "frame " + std::to_string(got) + " is not what was sent";
      ++got;
      last_progress = steady_clock::now();
    }
    delivered.store(got);
    if (steady_clock::now() - last_progress > kStall) return "no frame after number " + std::to_string(got);
  }
  return "";
}

using virtio::Feature, virtio::NetFeature;
constexpr virtio::FeatureSet kNone;
constexpr virtio::FeatureSet kPacked{Feature::ring_packed};

class Rebind : public ::testing::TestWithParam<virtio::FeatureSet> {};

TEST_P(Rebind, LosesRepeatsAndReordersNothingUnderTraffic) {
  const FakeGuestConfig config{.features = GetParam()};
  TwoGuests net(config, config);
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> delivered = 0;
  std::string complaint;
  std::atomic<bool> stream_ended = false;
  std::jthread stream([&] {
    complaint = run_stream(net, stop, delivered);
    stream_ended = true;
  });

  for (std::uint64_t i = 0; i < kRebinds; ++i) {
    const char* const device = i / 4 % 2 == 0 ? "soft-b" : "soft-a";
    port::Port& port = i % 2 == 0 ? *net.port_a : *net.port_b;
    const auto moved = port.rebind(QueueIndex{static_cast<std::uint16_t>(i / 2 % 2)}, device);
    ASSERT_TRUE(moved) << moved.error().text();
    net.loop.run_ready();
    // Traffic between the moves, not only around all of them: every few moves, frames must have arrived since.
    if (i % 8 == 0) {
      const std::uint64_t seen = delivered.load();
      while (delivered.load() == seen && !stream_ended) std::this_thread::yield();
    }
  }
  stop = true;
  stream.join();
  EXPECT_EQ(complaint, "");
  EXPECT_EQ(net.port_a->report().rebinds + net.port_b->report().rebinds, kRebinds);
  EXPECT_FALSE(net.a->is_broken() || net.b->is_broken());
}

INSTANTIATE_TEST_SUITE_P(Features, Rebind,
                         ::testing::Values(kNone, kNone.with(Feature::event_idx), kNone.with(NetFeature::mrg_rxbuf),
                                           kNone.with(Feature::in_order).with(NetFeature::mrg_rxbuf), kPacked,
                                           kPacked.with(Feature::event_idx).with(NetFeature::mrg_rxbuf),
                                           kPacked.with(Feature::in_order)));

TEST(AStoppedQueue, LosesNothingOfWhatItsDriverHasSent) {
  TwoGuests net({}, {});
  constexpr std::uint64_t kFrames = 100;
  for (int round = 0; round < 100; ++round) {
    for (std::uint64_t i = 0; i < kFrames; ++i) ASSERT_TRUE(net.a->send(0, {}, numbered_frame(i)));
    net.a->flush(0);
    ASSERT_TRUE(net.a->stop_and_start(1));
    const auto begin = steady_clock::now();
    for (std::uint64_t got = 0; got < kFrames;) {
      ASSERT_LT(steady_clock::now() - begin, kStall) << "only " << got << " frames came in round " << round;
      if (const auto arrival = net.b->receive(0)) {
        ASSERT_EQ(arrival->frame, numbered_frame(got++));
      }
    }
    while (net.a->reap(0) != 0) continue;
  }
}

TEST(RebindOf, AnUnknownDeviceIsRefusedAndTheQueueGoesOn) {
  TwoGuests net({}, {});
  const auto moved = net.port_a->rebind(QueueIndex{1}, "nic9");
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().text(), "port a has no device 'nic9'");
  EXPECT_TRUE(net.port_a->report().queues[1].started);
}

}  // namespace
}  // namespace causeway::testing

// Frames that come from nowhere, and copies of those that pass, at links with guests.

#include "net/control_commands.h"
#include "net/two_guests.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

namespace causeway::testing {
namespace {

using net::Link;
using virtio::NetFeature;

std::vector<std::byte> frame_to(net::MacAddress to, std::size_t size, net::MacAddress from = kMacA) {
  std::vector<std::byte> frame(size, std::byte{0x5a});
  const net::EthernetHeader ethernet{.destination = to, .source = from, .ether_type = {0x88, 0xb5}};
  std::memcpy(frame.data(), &ethernet, sizeof ethernet);
  return frame;
}

/// Guests on links that the test has too.
struct SlowPath : ::testing::TestWithParam<virtio::FeatureSet> {
  void start(const FakeGuestConfig& config) {
    a = value_or_die(FakeGuest::plug_in(*port_a, config));
    b = value_or_die(FakeGuest::plug_in(*port_b, config));
  }
  void on_worker(const std::function<void()>& work) {
    worker->run([&] { work(); });
  }
  Link::Given give(std::vector<std::byte> frame) {
    auto given = Link::Given::done;
    on_worker([&] { given = link_b->give(frame); });
    return given;
  }
  std::vector<net::CapturedFrame> captured(const std::shared_ptr<Link>& link) {
    net::Capture::Batch batch;
    on_worker([&] { batch = link->take_captured(); });
    EXPECT_EQ(batch.lost, 0U);
    return std::move(batch.frames);
  }
  /// From A to B, and it arrives.
  void pass(const std::vector<std::byte>& frame) {
    a->reap(0);
    ASSERT_TRUE(a->send(0, {}, frame));
    a->flush(0);
    const auto arrival = await_frame(*b);
    ASSERT_TRUE(arrival);
    EXPECT_EQ(arrival->frame, frame);
  }

  Loop loop;
  std::unique_ptr<Worker> worker = value_or_die(Worker::start({.name = "test", .cpu = {}}));
  net::Switch bridge{*worker, "sw0"};
  std::shared_ptr<Link> link_a = bridge.add_port("a");
  std::shared_ptr<Link> link_b = bridge.add_port("b");
  std::unique_ptr<port::Port> port_a = make_nic_port(loop, link_a, kMacA, 1);
  std::unique_ptr<port::Port> port_b = make_nic_port(loop, link_b, kMacB, 1);
  std::unique_ptr<FakeGuest> a;
  std::unique_ptr<FakeGuest> b;
};

TEST_P(SlowPath, AFrameThatIsGivenArrives) {
  start({.features = GetParam()});
  for (const std::size_t size : {std::size_t{60}, std::size_t{1514}}) {
    const auto frame = frame_to(kMacB, size);
    ASSERT_EQ(give(frame), Link::Given::done);
    const auto arrival = await_frame(*b);
    ASSERT_TRUE(arrival);
    EXPECT_EQ(arrival->frame, frame);
  }
}

TEST_P(SlowPath, WhatTheGuestCannotTakeIsRefusedWithTheReason) {
  EXPECT_EQ(give(frame_to(kMacB, 60)), Link::Given::no_queue);
  start({.features = GetParam(), .ring_size = 16});
  if (!GetParam().has(NetFeature::mrg_rxbuf)) {
    EXPECT_EQ(give(frame_to(kMacB, 4000)), Link::Given::too_long);
  }
  for (int i = 0; i < 16; ++i) ASSERT_EQ(give(frame_to(kMacB, 60)), Link::Given::done);
  EXPECT_EQ(give(frame_to(kMacB, 60)), Link::Given::no_buffer);
  ASSERT_TRUE(await_frame(*b));
  EXPECT_EQ(give(frame_to(kMacB, 60)), Link::Given::done) << "a buffer has come back";
  ASSERT_TRUE(port_b->enable_queue(virtio::QueueIndex{0}, false));
  EXPECT_EQ(give(frame_to(kMacB, 60)), Link::Given::no_queue);
}

TEST_P(SlowPath, ACaptureHasWhatPassesAndNothingElse) {
  start({.features = GetParam()});
  pass(frame_to(kMacB, 60));
  on_worker([&] {
    link_a->start_capture(net::kMaxFrame);
    link_b->start_capture(100);
  });
  const auto frame = frame_to(kMacB, 1400);
  pass(frame);
  const auto given = frame_to(kMacB, 80);
  ASSERT_EQ(give(given), Link::Given::done);
  const auto sent = captured(link_a);
  ASSERT_EQ(sent.size(), 1U);
  EXPECT_EQ(sent[0].bytes, frame);
  const auto received = captured(link_b);
  ASSERT_EQ(received.size(), 2U);
  EXPECT_EQ(received[0].length, 1400U);
  EXPECT_EQ(received[0].bytes, std::vector(frame.begin(), frame.begin() + 100));
  EXPECT_EQ(received[1].bytes, given);
  EXPECT_GE(received[0].at, sent[0].at);
  on_worker([&] {
    link_a->stop_capture();
    link_b->stop_capture();
  });
  ASSERT_TRUE(await_frame(*b));
  pass(frame);
}

TEST_P(SlowPath, ACaptureGoesOnWhenQueuesMoveAndEnd) {
  start({.features = GetParam()});
  on_worker([&] { link_a->start_capture(net::kMaxFrame); });
  for (const char* device : {"soft-b", "soft-a"}) {
    for (const std::uint16_t queue : {std::uint16_t{0}, std::uint16_t{1}}) {
      ASSERT_TRUE(port_a->rebind(virtio::QueueIndex{queue}, device));
    }
    pass(frame_to(kMacB, 60));
    ASSERT_EQ(captured(link_a).size(), 1U) << device;
  }
  a.reset();
  on_worker([&] { link_a->stop_capture(); });
}

TEST_P(SlowPath, FramesThatNobodyFetchesAreCountedAndLost) {
  start({.features = GetParam()});
  on_worker([&] {
    net::Capture capture(net::kMaxFrame);
    const auto frame = frame_to(kMacB, 1 << 16);
    for (int i = 0; i < 300; ++i) capture.keep(capture.copy(frame));
    const auto batch = capture.take();
    EXPECT_EQ(batch.frames.size() + batch.lost, 300U);
    EXPECT_LE(batch.frames.size() << 16, net::Capture::kMostBytes);
    EXPECT_GT(batch.lost, 0U);
    capture.keep(capture.copy(frame));
    EXPECT_EQ(capture.take().frames.size(), 1U) << "there is room again";
  });
}

INSTANTIATE_TEST_SUITE_P(Rings, SlowPath,
                         ::testing::Values(virtio::FeatureSet(), virtio::FeatureSet{NetFeature::mrg_rxbuf},
                                           virtio::FeatureSet{virtio::Feature::ring_packed}));

}  // namespace
}  // namespace causeway::testing

// A network port whose process dies: what its driver had said is there again, and another driver gets none of it.

#include "net/two_guests.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "support/temporary_directory.h"

namespace causeway::testing {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using virtio::Feature, virtio::NetFeature, virtio::QueueIndex;

constexpr auto kLimit = std::chrono::seconds(30);
constexpr net::MacAddress kStranger{{0x52, 0x54, 0, 0, 0, 0xc}};

std::string layout_name(const ::testing::TestParamInfo<virtio::FeatureSet>& info) {
  return info.param.has(Feature::ring_packed) ? "Packed" : "Split";
}

struct NetStateTest : ::testing::TestWithParam<virtio::FeatureSet> {
  NetStateTest()
      : worker(value_or_die(Worker::start({.name = "test", .cpu = {}}))),
        bridge(*worker, "sw0"),
        link(bridge.add_port("b")),
        port_a(make_nic_port(loop, bridge.add_port("a"), kMacA, 1)) {
    open();
    a = value_or_die(FakeGuest::plug_in(*port_a, guest_config()));
    b = value_or_die(FakeGuest::plug_in(*port_b, guest_config()));
  }

  static FakeGuestConfig guest_config() {
    return {.features = GetParam().with(NetFeature::ctrl_vq).with(NetFeature::ctrl_rx).with(NetFeature::ctrl_mac_addr),
            .ring_size = 64};
  }

  void open() {
    state = value_or_die(port::StateDirectory::open(directory.path() / "state"));
    port_b = make_nic_port(loop, link, kMacB, 1, state);
  }

  /// The process of B's port dies and is started again.
  void restart() {
    port_b.reset();
    b->lose_port();
    state.reset();
    open();
    if (auto record = value_or_die(port::load_record(*state, "b"))) {
      const auto restored = port_b->restore(std::move(*record));
      ASSERT_TRUE(restored) << restored.error().text();
    }
  }

  void command(std::initializer_list<int> values) {
    std::vector<std::byte> bytes;
    for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
    b->send_control(bytes);
    const auto end = std::chrono::steady_clock::now() + kLimit;
    std::optional<std::uint8_t> ack;
    while (!ack && std::chrono::steady_clock::now() < end) {
      loop.run_ready();
      ack = b->poll_control();
    }
    ASSERT_EQ(ack, virtio::kCtrlOk);
  }

  void send(net::MacAddress to, std::size_t bytes) {
    std::vector<std::byte> frame(bytes);
    const net::EthernetHeader ethernet{.destination = to, .source = kMacA, .ether_type = {0x88, 0xb5}};
    std::memcpy(frame.data(), &ethernet, sizeof ethernet);
    a->reap(0);
    ASSERT_TRUE(a->send(0, {}, frame));
    a->flush(0);
  }

  /// Length of the next frame that B gets.
  std::size_t arrived() {
    const auto end = std::chrono::steady_clock::now() + kLimit;
    while (std::chrono::steady_clock::now() < end) {
      if (const auto arrival = b->receive(0)) return arrival->frame.size();
      std::this_thread::yield();
    }
    return 0;
  }

  /// Frames one by one, each of another length.
  void talk(std::size_t frames) {
    for (std::size_t i = 0; i < frames; ++i) {
      send(kMacB, 60 + i);
      ASSERT_EQ(arrived(), 60 + i);
    }
  }

  TemporaryDirectory directory;
  Loop loop;
  std::unique_ptr<Worker> worker;
  net::Switch bridge;
  std::shared_ptr<net::Link> link;
  std::shared_ptr<port::StateDirectory> state;
  std::unique_ptr<port::Port> port_a;
  std::unique_ptr<port::Port> port_b;
  std::unique_ptr<FakeGuest> a;
  std::unique_ptr<FakeGuest> b;
};

TEST_P(NetStateTest, TheSameDriverGoesOnWhereItWas) {
  for (const std::size_t frames : {5U, 70U, 129U}) {
    talk(frames);
    restart();
    const auto moved = b->move_to(*port_b);
    ASSERT_TRUE(moved) << moved.error().text();
    EXPECT_THAT(port_b->report().differences, IsEmpty());
  }
  talk(200);
  EXPECT_FALSE(b->is_broken());
}

TEST_P(NetStateTest, ADriverThatComesBackWhileWeLiveGoesOnToo) {
  talk(100);
  port_b->detach();
  ASSERT_TRUE(b->move_to(*port_b));
  talk(200);
  EXPECT_FALSE(b->is_broken());
}

TEST_P(NetStateTest, WhatTheControlQueueSaidIsInForceAgain) {
  command({0, 0, 0});  // not promiscuous
  restart();
  ASSERT_TRUE(b->move_to(*port_b));
  send(kStranger, 100);
  send(kMacB, 101);
  EXPECT_EQ(arrived(), 101U) << "what is for another MAC address came through";
  command({0, 0, 1});
}

TEST_P(NetStateTest, QueuesAreBoundAsTheyWere) {
  ASSERT_TRUE(port_b->rebind(QueueIndex{1}, "soft-b"));
  restart();
  ASSERT_TRUE(b->move_to(*port_b));
  const auto report = port_b->report();
  EXPECT_EQ(report.queues[0].device, "soft-a");
  EXPECT_EQ(report.queues[1].device, "soft-b");
  EXPECT_EQ(report.rebinds, 1U);
  talk(100);
}

TEST_P(NetStateTest, AnotherDriverStartsAfreshAndTheReportSaysInWhatItDiffers) {
  talk(100);
  command({0, 0, 0});
  restart();
  FakeGuestConfig other = guest_config();
  other.ring_size = 32;
  other.features = other.features.with(NetFeature::mrg_rxbuf);
  const auto gone = std::move(b);  // lives on, and with it its memory
  b = value_or_die(FakeGuest::plug_in(*port_b, other));
  send(kStranger, 90);
  EXPECT_EQ(arrived(), 90U) << "it is promiscuous, as every new driver";
  const auto differences = port_b->report().differences;
  EXPECT_THAT(differences, Contains(HasSubstr("newly {mrg_rxbuf}")));
  EXPECT_THAT(differences, Contains(HasSubstr("the same are 0")));
  EXPECT_THAT(differences, Contains(HasSubstr("queue 0: a ring of 32 entries, before 64")));
}

TEST_P(NetStateTest, WhatIsNoLongerOfferedIsNamedAndRefused) {
  const port::PortRecord record = port_b->record();
  port_b.reset();
  b->lose_port();
  const net::NicConfig config{
      .name = "soft-a", .mac = kMacB, .queue_pairs = 1, .mtu = std::nullopt, .largest_ring = 32};
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  devices.push_back(value_or_die(net::Nic::make(loop, config, link)));
  const auto off = virtio::FeatureSet{NetFeature::ctrl_rx};
  port_b = value_or_die(port::Port::make(loop, {.name = "b", .features_off = off}, std::move(devices)));
  const auto restored = port_b->restore(record);
  ASSERT_FALSE(restored);
  EXPECT_THAT(restored.error().text(), HasSubstr("features ctrl_rx"));
  EXPECT_THAT(restored.error().text(), HasSubstr("queue 0 with 64 entries"));
}

TEST_P(NetStateTest, ADriverThatWasResetMeanwhileStartsAtTheBeginning) {
  talk(100);
  restart();
  ASSERT_TRUE(b->reboot_to(*port_b));
  talk(200);
  EXPECT_FALSE(b->is_broken());
}

INSTANTIATE_TEST_SUITE_P(Layouts, NetStateTest,
                         ::testing::Values(virtio::FeatureSet(), virtio::FeatureSet{Feature::ring_packed}),
                         layout_name);

}  // namespace
}  // namespace causeway::testing

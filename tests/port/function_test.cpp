// A port whose first Device is a virtio-pci function and whose second is software: traffic on either, and moved between
// the two while it flows.

#include "net/two_guests.h"
#include "port/functions.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <tuple>

namespace causeway::testing {
namespace {

using std::chrono::steady_clock;
using virtio::Feature, virtio::FeatureSet, virtio::NetFeature, virtio::QueueIndex;

constexpr auto kLimit = std::chrono::seconds(60);
constexpr std::uint16_t kReceive = 0, kTransmit = 1;

std::unique_ptr<port::Port> one_nic_port(Loop& loop, const std::shared_ptr<net::Link>& link, std::uint16_t pairs = 1) {
  const net::NicConfig config{.name = "nic", .mac = kMacA, .queue_pairs = pairs, .mtu = std::nullopt};
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  devices.push_back(value_or_die(net::Nic::make(loop, config, link)));
  return value_or_die(port::Port::make(loop, {.name = "function", .features_off = {}}, std::move(devices)));
}

/// Guest A's port has an accelerator and software, both on one link; guest B's has software.
struct Rig {
  explicit Rig(FeatureSet features, bool ring_state = true, std::uint16_t pairs = 1)
      : worker(value_or_die(Worker::start({.name = "test", .cpu = {}}))),
        bridge(*worker, "sw0"),
        link(bridge.add_port("a")),
        port_b(make_nic_port(loop, bridge.add_port("b"), kMacB, pairs)) {
    auto local = std::make_unique<LocalFunction>(loop, one_nic_port(loop, link, pairs),
                                                 virtio_pci::FunctionConfig{.ring_state = ring_state});
    function = &local->function();
    bus = local.get();
    auto accelerator = value_or_die(virtio_pci::Device::make(
        loop, std::move(local),
        {.name = "accelerator", .queues = static_cast<std::uint16_t>(2 * pairs), .largest_ring = 256}));
    device = accelerator.get();
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(std::move(accelerator));
    const net::NicConfig config{.name = "soft", .mac = kMacA, .queue_pairs = pairs, .mtu = std::nullopt};
    devices.push_back(value_or_die(net::Nic::make(loop, config, link)));
    port_a = value_or_die(port::Port::make(loop, {.name = "a", .features_off = {}}, std::move(devices)));
    const FakeGuestConfig guest{.features = features, .queue_pairs = pairs};
    a = value_or_die(FakeGuest::plug_in(*port_a, guest));
    b = value_or_die(FakeGuest::plug_in(*port_b, guest));
  }

  std::string device_of(std::uint16_t queue) const { return port_a->report().queues[queue].device; }
  Result<void> move(std::uint16_t queue, std::string_view to) { return port_a->rebind(QueueIndex{queue}, to); }

  Loop loop;
  std::unique_ptr<Worker> worker;
  net::Switch bridge;
  std::shared_ptr<net::Link> link;
  std::unique_ptr<port::Port> port_a;
  std::unique_ptr<port::Port> port_b;
  virtio_pci::Function* function = nullptr;
  LocalFunction* bus = nullptr;
  virtio_pci::Device* device = nullptr;
  std::unique_ptr<FakeGuest> a;
  std::unique_ptr<FakeGuest> b;
};

std::vector<std::byte> numbered(std::uint32_t number, net::MacAddress to, net::MacAddress from) {
  std::vector<std::byte> frame(60 + number % 1400, static_cast<std::byte>(number));
  const net::EthernetHeader ethernet{.destination = to, .source = from, .ether_type = {0x88, 0xb5}};
  std::memcpy(frame.data(), &ethernet, sizeof ethernet);
  std::memcpy(frame.data() + sizeof ethernet, &number, sizeof number);
  return frame;
}

/// A stream of numbered frames from one guest to the other. What comes must be what was sent, in order, once each.
struct Stream {
  FakeGuest& from;
  FakeGuest& to;
  net::MacAddress source;
  net::MacAddress target;
  std::uint32_t count;    ///< frames to be sent
  bool may_lose = false;  ///< those that are on their way when a queue stops
  std::uint32_t sent = 0;
  std::uint32_t next = 0;
  std::uint32_t came = 0;
  std::string complaint = {};
  steady_clock::time_point progress = steady_clock::now();

  void turn(std::uint32_t window = 100) {
    from.reap(0);
    while (sent < count && sent - next < window && from.send(0, {}, numbered(sent, target, source))) ++sent;
    from.flush(0);
    drain();
    if (may_lose && steady_clock::now() - progress > std::chrono::milliseconds(100)) next = sent;
  }
  void drain() {
    while (const auto arrival = to.receive(0)) {
      std::uint32_t number = 0;
      std::memcpy(&number, arrival->frame.data() + sizeof(net::EthernetHeader), sizeof number);
      const bool is_right =
          arrival->frame == numbered(number, target, source) && (may_lose ? number >= next : number == next);
      if (!is_right && complaint.empty()) complaint = fmt::format("frame {} where {} is due", number, next);
      next = number + 1;
      ++came;
      progress = steady_clock::now();
    }
  }
};

struct Accelerated : ::testing::TestWithParam<FeatureSet> {
  /// Both directions until `count` frames have come, with `between` now and then.
  template <class Between>
  void exchange(Rig& rig, std::uint32_t count, Between between, bool may_lose = false) {
    Stream out{.from = *rig.a, .to = *rig.b, .source = kMacA, .target = kMacB, .count = count};
    Stream in{.from = *rig.b, .to = *rig.a, .source = kMacB, .target = kMacA, .count = count, .may_lose = may_lose};
    // The switch learns where A is before B sends to it.
    while (out.came == 0) {
      out.turn(1);
      rig.loop.run_ready();
    }
    std::uint32_t next = 100;
    const auto end = steady_clock::now() + kLimit;
    while (out.next < count || in.next < count) {
      ASSERT_LT(steady_clock::now(), end)
          << "sent " << out.sent << ", got " << out.came << "; back " << in.sent << ", " << in.came;
      out.turn();
      in.turn();
      rig.loop.run_ready();
      if (out.came + in.came < next) continue;
      between();
      next += 100;
    }
    ASSERT_EQ(out.complaint, "");
    ASSERT_EQ(in.complaint, "");
    EXPECT_FALSE(rig.a->is_broken() || rig.b->is_broken());
  }
};

TEST_P(Accelerated, TrafficGoesThroughTheFunction) {
  Rig rig(GetParam());
  ASSERT_EQ(rig.device_of(kReceive), "accelerator");
  ASSERT_EQ(rig.device_of(kTransmit), "accelerator");
  exchange(rig, 5000, [] {});
}

TEST_P(Accelerated, QueuesMoveUnderTrafficAndNothingIsLostOrRepeated) {
  Rig rig(GetParam());
  std::uint32_t moves = 0;
  exchange(rig, 20'000, [&] {
    const std::uint16_t queue = moves % 2;
    const char* const to = moves / 2 % 2 == 0 ? "soft" : "accelerator";
    const auto moved = rig.move(queue, to);
    ASSERT_TRUE(moved) << moved.error().text();
    ASSERT_EQ(rig.device_of(queue), to);
    ++moves;
  });
  EXPECT_GE(moves, 300U);
}

TEST_P(Accelerated, ADoorbellInMemoryIsHeard) {
  Rig rig(GetParam());
  // Although the queue was started before it was enabled.
  EXPECT_TRUE(rig.a->has_doorbell(kTransmit));
  const auto area = rig.device->notify_area(QueueIndex{kTransmit});
  ASSERT_TRUE(area);
  EXPECT_EQ(area->size, page_size());
  const auto page = value_or_die(Mapping::map(area->fd, area->offset, area->size));
  const auto bell = memory::GuestSpan::over({page->data(), page->size()});
  const auto before = rig.function->doorbells(QueueIndex{kTransmit});
  bell.store<std::uint16_t>(0, kTransmit, std::memory_order_release);
  const auto end = steady_clock::now() + kLimit;
  while (rig.function->doorbells(QueueIndex{kTransmit}) == before) {
    ASSERT_LT(steady_clock::now(), end);
    std::this_thread::yield();
  }
}

TEST_P(Accelerated, AGuestMayResetAndStartAgain) {
  Rig rig(GetParam());
  exchange(rig, 300, [] {});
  rig.a.reset();
  rig.a = value_or_die(FakeGuest::plug_in(*rig.port_a, {.features = GetParam()}));
  ASSERT_EQ(rig.device_of(kReceive), "accelerator");
  exchange(rig, 300, [] {});
}

TEST_P(Accelerated, IsUnpluggedUnderTrafficAndNothingIsLostOrRepeated) {
  Rig rig(GetParam());
  std::uint32_t turns = 0;
  exchange(rig, 3000, [&] {
    if (++turns == 10) rig.bus->unplug();
  });
  EXPECT_GT(turns, 10U);
  for (const auto queue : {kReceive, kTransmit}) EXPECT_EQ(rig.device_of(queue), "soft");
}

TEST_P(Accelerated, OneQueuePairOfTwoIsAccelerated) {
  Rig rig(GetParam() | FeatureSet{NetFeature::mq, NetFeature::ctrl_vq}, true, 2);
  for (const auto queue : {std::uint16_t{2}, std::uint16_t{3}}) ASSERT_TRUE(rig.move(queue, "soft"));
  exchange(rig, 2000, [] {});
  EXPECT_EQ(rig.device_of(0), "accelerator");
  EXPECT_EQ(rig.device_of(3), "soft");
}

constexpr FeatureSet kSplit;
constexpr FeatureSet kPacked{Feature::ring_packed};
constexpr FeatureSet kAll{Feature::event_idx, Feature::indirect_desc, Feature::in_order};
INSTANTIATE_TEST_SUITE_P(Rings, Accelerated,
                         ::testing::Values(kSplit, kPacked, kAll, kPacked | kAll,
                                           kPacked | FeatureSet{NetFeature::mrg_rxbuf}));

struct Plain : Accelerated {};

TEST_P(Plain, FallsBackToSoftwareAndNothingIsRepeated) {
  Rig rig(GetParam(), false);
  ASSERT_EQ(rig.device_of(kTransmit), "accelerator");
  std::uint32_t turns = 0;
  const auto fall_back = [&] {
    ++turns;
    if (turns != 10 && turns != 20) return;
    ASSERT_TRUE(rig.move(turns == 10 ? kReceive : kTransmit, "soft"));
  };
  exchange(rig, 3000, fall_back, true);
  EXPECT_GE(turns, 20U);
  const auto back = rig.move(kTransmit, "accelerator");
  ASSERT_FALSE(back);
  EXPECT_NE(back.error().what.find("without ring state"), std::string::npos) << back.error().what;
}

TEST_P(Plain, IsUnpluggedUnderTrafficAndNothingIsRepeated) {
  Rig rig(GetParam(), false);
  std::uint32_t turns = 0;
  const auto unplug = [&] {
    if (++turns == 10) rig.bus->unplug();
  };
  exchange(rig, 3000, unplug, true);
  EXPECT_GT(turns, 10U);
  for (const auto queue : {kReceive, kTransmit}) EXPECT_EQ(rig.device_of(queue), "soft");
}

TEST_P(Plain, IsLeftByAQueueThatIsEnabledAgain) {
  Rig rig(GetParam(), false);
  exchange(rig, 300, [] {});
  for (const auto queue : {kReceive, kTransmit}) {
    ASSERT_TRUE(rig.port_a->enable_queue(QueueIndex{queue}, false));
    const auto enabled = rig.port_a->enable_queue(QueueIndex{queue}, true);
    ASSERT_TRUE(enabled) << enabled.error().text();
    EXPECT_EQ(rig.device_of(queue), "soft");
  }
  exchange(rig, 300, [] {}, true);
}

TEST_P(Plain, HasNoPackedRings) {
  Rig rig(GetParam() | FeatureSet{Feature::ring_packed}, false);
  EXPECT_EQ(rig.device_of(kTransmit), "soft");
  exchange(rig, 300, [] {});
}

INSTANTIATE_TEST_SUITE_P(Rings, Plain, ::testing::Values(kSplit, kAll));

TEST(RemoteAccelerator, ItsDeathIsNoticedAndSoftwareGoesOnWhereItStood) {
  for (const FeatureSet features : {kSplit, kPacked, kPacked | kAll}) {
    Loop loop;
    auto worker = value_or_die(Worker::start({.name = "test", .cpu = {}}));
    net::Switch bridge(*worker, "sw0");
    auto port_b = make_nic_port(loop, bridge.add_port("b"), kMacB, 1);
    RemoteFunction remote([&](Loop& theirs) { return one_nic_port(theirs, bridge.add_port("accelerator")); }, {});
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(value_or_die(
        virtio_pci::Device::make(loop, remote.connect(loop), {.name = "accelerator", .largest_ring = 256})));
    const net::NicConfig config{.name = "soft", .mac = kMacA, .queue_pairs = 1, .mtu = std::nullopt};
    devices.push_back(value_or_die(net::Nic::make(loop, config, bridge.add_port("soft"))));
    auto port_a = value_or_die(port::Port::make(loop, {.name = "a", .features_off = {}}, std::move(devices)));
    auto a = value_or_die(FakeGuest::plug_in(*port_a, {.features = features}));
    auto b = value_or_die(FakeGuest::plug_in(*port_b, {.features = features}));
    ASSERT_EQ(port_a->report().queues[kTransmit].device, "accelerator");
    Stream out{.from = *a, .to = *b, .source = kMacA, .target = kMacB, .count = 5000};
    const auto end = steady_clock::now() + kLimit;
    while (out.next < out.count) {
      ASSERT_LT(steady_clock::now(), end) << "sent " << out.sent << ", got " << out.came;
      out.turn();
      loop.run_ready();
      if (out.came > 1000 && port_a->report().queues[kTransmit].device == "accelerator") remote.disconnect();
    }
    EXPECT_EQ(out.complaint, "");
    EXPECT_EQ(port_a->report().queues[kReceive].device, "soft");
  }
}

}  // namespace
}  // namespace causeway::testing

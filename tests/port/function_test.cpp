// A port whose first Device is a virtio-pci function and whose second is software: traffic on either, and moved between
// the two while it flows.

#include "net/frame_stream.h"
#include "net/two_guests.h"
#include "port/functions.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <tuple>
#include <utility>

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
    port_a = value_or_die(
        port::Port::make(loop, {.name = "a", .features_off = {}, .relay_worker = worker.get()}, std::move(devices)));
    const FakeGuestConfig guest{.features = features, .queue_pairs = pairs};
    a = value_or_die(FakeGuest::plug_in(*port_a, guest));
    b = value_or_die(FakeGuest::plug_in(*port_b, guest));
  }

  std::string device_of(std::uint16_t queue) const { return port_a->report().queues[queue].device; }
  /// Has the counters of all Devices be read.
  void refresh() {
    auto token = std::make_shared<int>();
    const std::weak_ptr<int> waits = token;
    port_a->refresh_counters(std::exchange(token, nullptr));
    const auto end = steady_clock::now() + kLimit;
    while (!waits.expired()) {
      if (steady_clock::now() > end) throw std::runtime_error("no counters came");
      loop.run_ready();
    }
  }
  static std::uint64_t value(const std::vector<vdpa::Counter>& counters, std::string_view name) {
    const auto found = std::ranges::find(counters, name, &vdpa::Counter::name);
    return found == counters.end() ? 0 : found->value;
  }
  std::uint64_t counter(std::uint16_t queue, std::string_view name) const {
    return value(port_a->report().queues[queue].counters, name);
  }
  std::uint64_t total(std::uint16_t queue, std::string_view name) const {
    return value(port_a->report().queues[queue].totals, name);
  }
  Result<void> move(std::uint16_t queue, std::string_view to) { return port_a->rebind(QueueIndex{queue}, to); }
  port::Path path_of(std::uint16_t queue) const { return port_a->report().queues[queue].path; }

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

struct Accelerated : ::testing::TestWithParam<FeatureSet> {
  template <class Between>
  void exchange(Rig& rig, std::uint32_t count, Between between, bool may_lose = false) {
    ASSERT_TRUE(exchange_frames(rig.loop, *rig.a, *rig.b, count, between, may_lose));
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

TEST_P(Accelerated, PathsChangeUnderTrafficAndNothingIsLostOrRepeated) {
  Rig rig(GetParam());
  std::uint32_t moves = 0;
  exchange(rig, 10'000, [&] {
    const std::uint16_t queue = moves % 2;
    const auto path = moves / 2 % 3 == 0 ? port::Path::relay : port::Path::direct;
    const char* const to = moves / 2 % 3 == 2 ? "soft" : "accelerator";
    const auto moved = rig.port_a->rebind(QueueIndex{queue}, to, {.path = path});
    ASSERT_TRUE(moved) << moved.error().text();
    ASSERT_EQ(rig.path_of(queue), path);
    ASSERT_EQ(rig.a->has_doorbell(queue), moves / 2 % 3 == 1);
    ++moves;
  });
  EXPECT_GE(moves, 100U);
}

TEST_P(Accelerated, IsUnpluggedUnderARelayAndNothingIsLostOrRepeated) {
  Rig rig(GetParam());
  for (const auto queue : {kReceive, kTransmit}) {
    ASSERT_TRUE(rig.port_a->rebind(QueueIndex{queue}, "accelerator", {.path = port::Path::relay}));
  }
  std::uint32_t turns = 0;
  exchange(rig, 3000, [&] {
    if (++turns == 10) rig.bus->unplug();
  });
  EXPECT_GT(turns, 10U);
  for (const auto queue : {kReceive, kTransmit}) EXPECT_EQ(rig.device_of(queue), "soft");
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

TEST_P(Accelerated, ItsCountersAreReadFromTheFunctionAndTotalsDoNotGoBack) {
  Rig rig(GetParam());
  exchange(rig, 500, [] {});
  rig.refresh();
  for (const auto queue : {kReceive, kTransmit}) {
    EXPECT_GE(rig.counter(queue, "packets"), 500U);
    EXPECT_GE(rig.total(queue, "bytes"), 500U * 60);
    ASSERT_TRUE(rig.move(queue, "soft"));
    EXPECT_EQ(rig.counter(queue, "packets"), 0U) << "software has moved nothing yet";
    EXPECT_GE(rig.total(queue, "packets"), 500U);
  }
  exchange(rig, 500, [] {});
  rig.refresh();
  for (const auto queue : {kReceive, kTransmit}) EXPECT_GE(rig.total(queue, "packets"), 1000U);
  rig.bus->unplug();
  for (const auto queue : {kReceive, kTransmit}) EXPECT_GE(rig.total(queue, "packets"), 1000U);
  EXPECT_TRUE(rig.port_a->report().uncounted.empty());
}

TEST_P(Accelerated, AQueueIsBorrowedUnderTrafficAndGoesBackWhereItBelongs) {
  Rig rig(GetParam());
  std::uint32_t turns = 0;
  exchange(rig, 2000, [&] {
    const auto borrowed = rig.port_a->borrow(QueueIndex{kReceive});
    ASSERT_TRUE(borrowed && *borrowed);
    ASSERT_EQ(rig.device_of(kReceive), "soft");
    const auto again = rig.port_a->borrow(QueueIndex{kReceive});
    ASSERT_TRUE(again && !*again) << "it is there already";
    ASSERT_TRUE(rig.port_a->give_back(QueueIndex{kReceive}));
    ASSERT_EQ(rig.device_of(kReceive), "accelerator");
    ++turns;
  });
  EXPECT_GT(turns, 10U);
  rig.a.reset();
  EXPECT_EQ(rig.port_a->borrow(QueueIndex{kReceive}).error().code, Errc::gone) << "it does not run";
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
}

TEST_P(Plain, TakesARingInUseByRelayOnly) {
  Rig rig(GetParam(), false);
  exchange(rig, 300, [] {});
  for (const auto queue : {kReceive, kTransmit}) ASSERT_TRUE(rig.move(queue, "soft"));
  exchange(rig, 300, [] {});
  const auto back = rig.port_a->rebind(QueueIndex{kTransmit}, "accelerator", {.path = port::Path::direct});
  ASSERT_FALSE(back);
  EXPECT_NE(back.error().what.find("without ring state"), std::string::npos) << back.error().what;
  for (const auto queue : {kReceive, kTransmit}) {
    const auto moved = rig.move(queue, "accelerator");
    ASSERT_TRUE(moved) << moved.error().text();
    EXPECT_EQ(rig.device_of(queue), "accelerator");
    EXPECT_EQ(rig.path_of(queue), port::Path::relay);
  }
  exchange(rig, 1000, [] {});
  // A driver that starts its rings anew gets the direct path again.
  rig.a.reset();
  rig.a = value_or_die(FakeGuest::plug_in(*rig.port_a, {.features = GetParam()}));
  for (const auto queue : {kReceive, kTransmit}) EXPECT_EQ(rig.path_of(queue), port::Path::direct);
  exchange(rig, 300, [] {});
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

TEST_P(Plain, TakesALentQueueBackByRelay) {
  Rig rig(GetParam(), false);
  exchange(rig, 300, [] {});
  ASSERT_TRUE(rig.port_a->borrow(QueueIndex{kReceive}));
  EXPECT_EQ(rig.device_of(kReceive), "soft");
  ASSERT_TRUE(rig.port_a->give_back(QueueIndex{kReceive}));
  EXPECT_EQ(rig.device_of(kReceive), "accelerator");
  EXPECT_EQ(rig.path_of(kReceive), port::Path::relay);
  exchange(rig, 300, [] {}, true);
}

TEST_P(Plain, WorksThePackedRingsThatItLacksByRelay) {
  Rig rig(GetParam() | FeatureSet{Feature::ring_packed}, false);
  EXPECT_EQ(rig.device_of(kTransmit), "accelerator");
  EXPECT_EQ(rig.path_of(kTransmit), port::Path::relay);
  EXPECT_FALSE(rig.a->has_doorbell(kTransmit));
  exchange(rig, 3000, [] {});
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

// A port whose first Device is an accelerator that fails: no frame is lost, and the queues come back.

#include "support/accelerator.h"

#include "net/two_guests.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>

namespace causeway::testing {
namespace {

using port::Failback;
using ::testing::Each, ::testing::ElementsAre;
using virtio::Feature, virtio::FeatureSet, virtio::NetFeature, virtio::QueueIndex;

constexpr auto kLimit = std::chrono::seconds(30);

struct AcceleratorTest : ::testing::TestWithParam<FeatureSet> {
  AcceleratorTest()
      : worker(value_or_die(Worker::start({.name = "test", .cpu = {}}))),
        bridge(*worker, "sw0"),
        link(bridge.add_port("b")),
        port_a(make_nic_port(loop, bridge.add_port("a"), kMacA, 1)),
        a(value_or_die(FakeGuest::plug_in(*port_a, {.features = GetParam(), .ring_size = 64}))) {}

  std::unique_ptr<vdpa::Device> nic(std::uint16_t pairs) {
    const net::NicConfig config{.name = "soft", .mac = kMacB, .queue_pairs = pairs, .mtu = std::nullopt};
    return value_or_die(net::Nic::make(loop, config, link));
  }
  /// B's port: the accelerator in front of a software NIC.
  void plug_in(Failback failback = Failback::automatic, std::uint16_t pairs = 1,
               std::optional<std::uint16_t> accelerated = std::nullopt,
               const std::vector<std::string>& configured = {}) {
    auto device = std::make_unique<Accelerator>(nic(pairs), "accel", accelerated);
    accel = device.get();
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(std::move(device));
    devices.push_back(nic(pairs));
    port_b = value_or_die(port::Port::make(
        loop, {.name = "b", .features_off = {}, .failback = failback, .bindings = configured}, std::move(devices)));
    plug_in_guest(pairs);
  }
  void plug_in_guest(std::uint16_t pairs) {
    b.reset();
    FeatureSet features = GetParam();
    if (pairs > 1) features = features.with(NetFeature::mq).with(NetFeature::ctrl_vq);
    b = value_or_die(FakeGuest::plug_in(*port_b, {.features = features, .queue_pairs = pairs, .ring_size = 64}));
  }
  std::vector<std::string> bindings() const {
    std::vector<std::string> names;
    for (const auto& queue : port_b->report().queues) {
      if (queue.started && !queue.is_control) names.push_back(queue.device);
    }
    return names;
  }

  /// Numbered frames from A to B, one by one in order, and `now_and_then` after each hundred.
  void stream(std::uint32_t frames, const std::function<void()>& now_and_then = [] {}) {
    constexpr std::uint32_t kWindow = 40;  // fewer than B has buffers
    std::uint32_t sent = 0;
    std::uint32_t got = 0;
    std::uint32_t calls = 0;
    const auto end = std::chrono::steady_clock::now() + kLimit;
    while (got < frames) {
      ASSERT_LT(std::chrono::steady_clock::now(), end) << got << " of " << frames;
      a->reap(0);
      while (sent < frames && sent - got < kWindow && send(sent)) ++sent;
      a->flush(0);
      while (const auto arrival = b->receive(0)) {
        std::uint32_t number = 0;
        std::memcpy(&number, arrival->frame.data() + sizeof(net::EthernetHeader), sizeof number);
        ASSERT_EQ(number, got++);
      }
      if (sent < 100 * (calls + 1)) continue;
      now_and_then();
      ++calls;
    }
    EXPECT_FALSE(a->is_broken() || b->is_broken());
  }
  bool send(std::uint32_t number) {
    std::vector<std::byte> frame(60 + number % 1000);
    const net::EthernetHeader ethernet{.destination = kMacB, .source = kMacA, .ether_type = {0x88, 0xb5}};
    std::memcpy(frame.data(), &ethernet, sizeof ethernet);
    std::memcpy(frame.data() + sizeof ethernet, &number, sizeof number);
    return a->send(0, {}, frame);
  }

  Loop loop;
  std::unique_ptr<Worker> worker;
  net::Switch bridge;
  std::shared_ptr<net::Link> link;
  std::unique_ptr<port::Port> port_a;
  std::unique_ptr<FakeGuest> a;
  Accelerator* accel = nullptr;
  std::unique_ptr<port::Port> port_b;
  std::unique_ptr<FakeGuest> b;
};

TEST_P(AcceleratorTest, ThatGoesAndComesBackLosesNoFrame) {
  plug_in();
  bool is_there = true;
  unsigned changes = 0;
  stream(20'000, [&] {
    is_there = !is_there;
    is_there ? accel->come_back() : accel->die();
    const std::string device = is_there ? "accel" : "soft";
    ASSERT_THAT(bindings(), ElementsAre(device, device));
    ASSERT_EQ(b->has_doorbell(0), is_there);
    ++changes;
  });
  EXPECT_GE(changes, 150U);
  EXPECT_EQ(accel->asked_while_gone(), 0U);
}

TEST_P(AcceleratorTest, IsNotSpokenToWhileItIsGone) {
  plug_in();
  accel->die();
  port_b->reset();
  ASSERT_TRUE(port_b->set_mtu(1500));
  b.reset();
  b = value_or_die(FakeGuest::plug_in(*port_b, {.features = GetParam(), .ring_size = 64}));
  EXPECT_THAT(bindings(), ElementsAre("soft", "soft"));
  ASSERT_TRUE(port_b->set_mtu(1400));
  stream(200);
  EXPECT_EQ(accel->asked_while_gone(), 0U);
  accel->come_back();
  EXPECT_THAT(bindings(), ElementsAre("accel", "accel"));
  EXPECT_EQ(accel->mtu(), 1400);
  EXPECT_TRUE(vdpa::has(accel->status(), vdpa::Status::driver_ok));
  EXPECT_EQ(accel->mapped_regions(), 1U);
  stream(200);
}

TEST_P(AcceleratorTest, ThatIsAllThereIsTakesNoDriverWhileItIsGone) {
  auto device = std::make_unique<Accelerator>(nic(1));
  accel = device.get();
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  devices.push_back(std::move(device));
  port_b = value_or_die(port::Port::make(loop, {.name = "b", .features_off = {}}, std::move(devices)));
  const FakeGuestConfig config{.features = GetParam(), .ring_size = 64};
  accel->die();
  ASSERT_FALSE(FakeGuest::plug_in(*port_b, config));
  EXPECT_EQ(accel->asked_while_gone(), 0U);
  accel->come_back();
  b = value_or_die(FakeGuest::plug_in(*port_b, config));
  stream(200);
}

TEST_P(AcceleratorTest, GetsItsQueuesBackOnlyByHandWhenThatIsWanted) {
  plug_in(Failback::manual);
  accel->die();
  accel->come_back();
  EXPECT_THAT(bindings(), ElementsAre("soft", "soft"));
  b.reset();
  b = value_or_die(FakeGuest::plug_in(*port_b, {.features = GetParam(), .ring_size = 64}));
  EXPECT_THAT(bindings(), ElementsAre("soft", "soft"));
  ASSERT_TRUE(port_b->rebind(QueueIndex{0}, "accel"));
  EXPECT_THAT(bindings(), ElementsAre("accel", "soft"));
  stream(200);
}

TEST_P(AcceleratorTest, DoesNotGetAQueueThatTheOperatorPutElsewhere) {
  plug_in();
  ASSERT_TRUE(port_b->rebind(QueueIndex{1}, "soft"));
  accel->die();
  ASSERT_FALSE(port_b->rebind(QueueIndex{1}, "accel"));
  accel->come_back();
  EXPECT_THAT(bindings(), ElementsAre("accel", "soft"));
  // A choice made while it was gone is one, too.
  accel->die();
  ASSERT_TRUE(port_b->rebind(QueueIndex{0}, "soft"));
  accel->come_back();
  EXPECT_THAT(bindings(), ElementsAre("soft", "soft"));
  EXPECT_EQ(port_b->record().queues[0].preferred, "soft");
}

TEST_P(AcceleratorTest, ThatCannotTakeTheMemoryIsLeftUntilItCan) {
  plug_in();
  constexpr std::uint64_t kSize = 1 << 20;
  constexpr std::uint64_t kIova = 0x8'0000'0000;
  constexpr std::uint64_t kFrontend = 0x7e00'0000'0000;
  unsigned changes = 0;
  stream(2'000, [&] {
    accel->refuses.memory = changes % 4 < 2;
    const auto done = changes % 2 == 0
                          ? port_b->add_memory(make_region(kIova, kSize, kFrontend))
                          : port_b->remove_memory(memory::Iova(kIova), memory::FrontendVa(kFrontend), kSize);
    ASSERT_TRUE(done) << done.error().text();
    const std::string device = accel->refuses.memory ? "soft" : "accel";
    ASSERT_THAT(bindings(), ElementsAre(device, device)) << changes;
    ASSERT_EQ(accel->mapped_regions(), accel->refuses.memory ? 0U : port_b->memory().regions().size());
    ++changes;
  });
  EXPECT_GE(changes, 15U);
}

TEST_P(AcceleratorTest, ThatRefusesASettingIsLeftUntilTheNextDriver) {
  for (bool Accelerator::Refuses::* what : {&Accelerator::Refuses::status, &Accelerator::Refuses::mtu}) {
    b.reset();
    plug_in();
    accel->refuses.*what = true;
    using vdpa::Status;
    ASSERT_TRUE(port_b->set_status(Status::acknowledge | Status::driver));
    ASSERT_TRUE(port_b->set_mtu(1500));
    EXPECT_THAT(bindings(), ElementsAre("soft", "soft"));
    stream(200);
    accel->refuses.*what = false;
    b.reset();
    b = value_or_die(FakeGuest::plug_in(*port_b, {.features = GetParam(), .ring_size = 64}));
    EXPECT_THAT(bindings(), ElementsAre("accel", "accel"));
    stream(200);
  }
}

TEST_P(AcceleratorTest, ThatComesBackAndCannotBeUsedIsLeft) {
  plug_in();
  accel->die();
  accel->refuses.memory = true;
  accel->come_back();
  EXPECT_THAT(bindings(), ElementsAre("soft", "soft"));
  EXPECT_FALSE(port_b->rebind(QueueIndex{0}, "accel"));
  stream(200);
}

TEST_P(AcceleratorTest, OfFewerQueuesTakesThoseThatItHas) {
  plug_in(Failback::automatic, 2, 2);
  EXPECT_THAT(bindings(), ElementsAre("accel", "accel", "soft", "soft"));
  EXPECT_FALSE(port_b->rebind(QueueIndex{2}, "accel"));
  stream(500, [&] {
    accel->die();
    accel->come_back();
  });
  EXPECT_THAT(bindings(), ElementsAre("accel", "accel", "soft", "soft"));
}

TEST_P(AcceleratorTest, HasThePairsThatTheConfigurationGivesIt) {
  plug_in(Failback::automatic, 3, std::nullopt, {"soft", "accel", "soft"});
  const auto as_configured = ElementsAre("soft", "soft", "accel", "accel", "soft", "soft");
  EXPECT_THAT(bindings(), as_configured);
  accel->die();
  EXPECT_THAT(bindings(), Each("soft"));
  accel->come_back();
  EXPECT_THAT(bindings(), as_configured);
  // The next guest finds it so, too; and an operator's choice counts for more.
  plug_in_guest(3);
  EXPECT_THAT(bindings(), as_configured);
  ASSERT_TRUE(port_b->rebind(QueueIndex{3}, "soft"));
  accel->die();
  accel->come_back();
  EXPECT_THAT(bindings(), ElementsAre("soft", "soft", "accel", "soft", "soft", "soft"));
  stream(200);
}

TEST_P(AcceleratorTest, DoesNotBeginWithPairsThatItDoesNotHave) {
  plug_in(Failback::automatic, 2, 2, {"soft", "accel"});
  const auto in_software = ElementsAre("soft", "soft", "soft", "soft");
  EXPECT_THAT(bindings(), in_software);
  accel->die();
  accel->come_back();
  EXPECT_THAT(bindings(), in_software);
  stream(200);
}

TEST_P(AcceleratorTest, BindingsOfARecordCountForMoreThanTheConfigurations) {
  plug_in(Failback::automatic, 2);
  ASSERT_TRUE(port_b->rebind(QueueIndex{0}, "soft"));
  auto record = port_b->record();
  b.reset();
  plug_in(Failback::automatic, 2, std::nullopt, {"accel", "soft"});
  EXPECT_THAT(bindings(), ElementsAre("accel", "accel", "soft", "soft"));
  b.reset();
  ASSERT_TRUE(port_b->restore(std::move(record)));
  plug_in_guest(2);
  EXPECT_THAT(bindings(), ElementsAre("soft", "accel", "accel", "accel"));
}

TEST_P(AcceleratorTest, BindingsNameDevicesOfThePort) {
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  devices.push_back(nic(1));
  const auto made = port::Port::make(loop, {.name = "b", .features_off = {}, .bindings = {"hard"}}, std::move(devices));
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().text(), "port b: it has no device 'hard'");
}

TEST_P(AcceleratorTest, LosesTheDoorbellAndTheVfioGroupBeforeTheQueue) {
  plug_in();
  EXPECT_TRUE(b->has_vfio_group(0) && b->has_vfio_group(1));
  EXPECT_TRUE(b->has_doorbell(0) && b->has_doorbell(1));
  EXPECT_EQ(port_b->report().queues[1].doorbell, port::Doorbell::accepted);
  unsigned stops = 0;
  accel->on_stop = [&](QueueIndex queue) {
    EXPECT_FALSE(b->has_doorbell(virtio::number(queue)));
    EXPECT_FALSE(b->has_vfio_group(virtio::number(queue)));
    ++stops;
  };
  ASSERT_TRUE(port_b->rebind(QueueIndex{1}, "soft"));
  EXPECT_TRUE(b->has_doorbell(0) && b->has_vfio_group(0));
  EXPECT_FALSE(b->has_doorbell(1) || b->has_vfio_group(1));
  ASSERT_TRUE(port_b->rebind(QueueIndex{1}, "accel"));
  EXPECT_TRUE(b->has_doorbell(1) && b->has_vfio_group(1));
  ParcelWriter positions;
  port_b->pause(positions);
  EXPECT_FALSE(b->has_doorbell(0) || b->has_doorbell(1));
  port_b->go_on(false);
  EXPECT_TRUE(b->has_doorbell(0) && b->has_doorbell(1));
  ASSERT_TRUE(b->stop_and_start(1));
  EXPECT_TRUE(b->has_doorbell(1));
  EXPECT_EQ(stops, 4U);
  port_b->reset();
  EXPECT_FALSE(b->has_doorbell(0) || b->has_doorbell(1));
  EXPECT_FALSE(b->has_vfio_group(0) || b->has_vfio_group(1));
  accel->on_stop = {};
}

INSTANTIATE_TEST_SUITE_P(Layouts, AcceleratorTest, ::testing::Values(FeatureSet(), FeatureSet{Feature::ring_packed}),
                         [](const auto& layout) {
                           return layout.param.has(Feature::ring_packed) ? "Packed" : "Split";
                         });

}  // namespace
}  // namespace causeway::testing

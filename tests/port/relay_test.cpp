// Ports with relayed queues: paths change under traffic, Devices that lack what the ring has, queues of other numbers.

#include "net/frame_stream.h"
#include "net/two_guests.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>

#include "blk/disk_rig.h"
#include "blk/ram_store.h"
#include "support/accelerator.h"

namespace causeway::testing {
namespace {

using port::Path;
using virtio::Feature, virtio::FeatureSet, virtio::NetFeature, virtio::QueueIndex;

constexpr FeatureSet kAll{Feature::event_idx, Feature::indirect_desc, Feature::in_order};
constexpr FeatureSet kPacked{Feature::ring_packed};
constexpr std::array kPair{QueueIndex{0}, QueueIndex{1}};

std::string name_of_rings(const ::testing::TestParamInfo<FeatureSet>& info) {
  std::string name = info.param.has(Feature::ring_packed) ? "Packed" : "Split";
  if (info.param.has(Feature::indirect_desc)) name += "All";
  if (info.param.has(NetFeature::mrg_rxbuf)) name += "Mergeable";
  return name;
}

struct RelayTest : ::testing::TestWithParam<FeatureSet> {
  RelayTest()
      : worker(value_or_die(Worker::start({.name = "test", .cpu = {}}))),
        relays(value_or_die(Worker::start({.name = "relays", .cpu = {}}))),
        bridge(*worker, "sw0"),
        link(bridge.add_port("a")),
        port_b(make_nic_port(loop, bridge.add_port("b"), kMacB, 1)),
        b(value_or_die(FakeGuest::plug_in(*port_b, {.features = GetParam()}))) {}

  std::unique_ptr<vdpa::Device> nic(std::uint16_t pairs) {
    const net::NicConfig config{.name = "soft", .mac = kMacA, .queue_pairs = pairs, .mtu = std::nullopt};
    return value_or_die(net::Nic::make(loop, config, link));
  }
  /// A's port: an accelerator that lacks some features, and software.
  void plug_in(FeatureSet lacks = {}, std::uint16_t pairs = 1) {
    auto device = std::make_unique<Accelerator>(nic(pairs));
    device->lack(lacks);
    device->hide_doorbells();
    accel = device.get();
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(std::move(device));
    devices.push_back(nic(pairs));
    port_a = value_or_die(
        port::Port::make(loop, {.name = "a", .features_off = {}, .relay_worker = relays.get()}, std::move(devices)));
    FeatureSet features = GetParam();
    if (pairs > 1) features = features.with(NetFeature::mq).with(NetFeature::ctrl_vq);
    a = value_or_die(FakeGuest::plug_in(*port_a, {.features = features, .queue_pairs = pairs}));
  }
  template <class Between>
  void exchange(std::uint32_t count, Between between) {
    ASSERT_TRUE(exchange_frames(loop, *a, *b, count, between));
  }
  port::QueueReport report(std::uint16_t queue) const { return port_a->report().queues[queue]; }

  Loop loop;
  std::unique_ptr<Worker> worker;
  std::unique_ptr<Worker> relays;
  net::Switch bridge;
  std::shared_ptr<net::Link> link;
  std::unique_ptr<port::Port> port_b;
  std::unique_ptr<FakeGuest> b;
  Accelerator* accel = nullptr;
  std::unique_ptr<port::Port> port_a;
  std::unique_ptr<FakeGuest> a;
};

TEST_P(RelayTest, PathsAndDevicesChangeUnderTrafficAndNothingIsLostOrRepeated) {
  plug_in();
  std::uint32_t moves = 0;
  exchange(10'000, [&] {
    const std::uint16_t queue = moves % 2;
    const char* const device = moves / 2 % 2 == 0 ? "soft" : "accel";
    const Path path = moves / 4 % 2 == 0 ? Path::relay : Path::direct;
    const auto moved = port_a->rebind(QueueIndex{queue}, device, {.path = path});
    ASSERT_TRUE(moved) << moved.error().text();
    ASSERT_EQ(report(queue).device, device);
    ASSERT_EQ(report(queue).path, path);
    const bool is_function_s = path == Path::direct && moves / 2 % 2 == 1;
    ASSERT_EQ(a->has_vfio_group(queue), is_function_s) << "a relayed queue is interrupted for by us";
    ++moves;
  });
  EXPECT_GE(moves, 100U);
}

TEST_P(RelayTest, ADeviceThatLacksFeaturesOfTheRingIsRelayed) {
  for (const FeatureSet lacks : {kPacked, kAll, kPacked | kAll}) {
    a.reset();
    plug_in(lacks);
    const bool needs_relay = !GetParam().is_subset_of(FeatureSet(~0ULL).minus(lacks));
    EXPECT_EQ(report(0).device, "accel");
    EXPECT_EQ(report(0).path, needs_relay ? Path::relay : Path::direct);
    std::uint32_t moves = 0;
    exchange(2000, [&] {
      ASSERT_TRUE(
          port_a->rebind(QueueIndex{static_cast<std::uint16_t>(moves % 2)}, moves / 2 % 2 == 0 ? "soft" : "accel"));
      ++moves;
    });
  }
}

TEST_P(RelayTest, ADeviceThatGoesUnderARelayLosesNoFrame) {
  plug_in(kPacked | kAll);
  bool is_there = true;
  exchange(5'000, [&] {
    for (const QueueIndex queue : kPair) {
      if (is_there) {
        ASSERT_TRUE(port_a->rebind(queue, "accel", {.path = Path::relay}));
      }
    }
    is_there = !is_there;
    is_there ? accel->come_back() : accel->die();
    ASSERT_EQ(report(0).device, is_there ? "accel" : "soft");
  });
  EXPECT_EQ(accel->asked_while_gone(), 0U);
}

TEST_P(RelayTest, MemoryComesAndGoesUnderARelay) {
  plug_in();
  for (const QueueIndex queue : kPair) ASSERT_TRUE(port_a->rebind(queue, "accel", {.path = Path::relay}));
  constexpr std::uint64_t kIova = 0x8'0000'0000, kSize = 1 << 20, kFrontend = 0x7e00'0000'0000;
  bool is_there = false;
  exchange(3'000, [&] {
    const auto done = is_there ? port_a->remove_memory(memory::Iova(kIova), memory::FrontendVa(kFrontend), kSize)
                               : port_a->add_memory(make_region(kIova, kSize, kFrontend));
    ASSERT_TRUE(done) << done.error().text();
    is_there = !is_there;
  });
  EXPECT_EQ(report(1).path, Path::relay);
}

TEST_P(RelayTest, AQueueOfTheOtherDirectionOrOfAnotherQueueIsRefused) {
  plug_in({}, 2);
  const auto bind = [this](std::uint16_t queue, std::uint16_t device_queue) {
    return port_a->rebind(QueueIndex{queue}, "accel", {.device_queue = QueueIndex{device_queue}}).error();
  };
  EXPECT_EQ(bind(0, 2).text(),
            "queue 2 of device 'accel' belongs to another queue of the port, which must be bound "
            "elsewhere first");
  EXPECT_EQ(bind(0, 3).text(), "queue 3 of device 'accel' is of the other direction than queue 0");
  EXPECT_EQ(bind(0, 4).text(), "device 'accel' has only 4 queues");
  exchange(200, [] {});
}

INSTANTIATE_TEST_SUITE_P(Rings, RelayTest,
                         ::testing::Values(FeatureSet(), kPacked, kAll, kPacked | kAll,
                                           kPacked | FeatureSet{NetFeature::mrg_rxbuf}),
                         name_of_rings);

struct RelayedDisk : ::testing::TestWithParam<FeatureSet> {};

TEST_P(RelayedDisk, DoesEveryRequestOnceWhateverThePath) {
  using virtio::BlkRequestType, virtio::BlkStatus;
  DiskRig rig(value_or_die(blk::RamStore::make(1 << 20)),
              {.driver = {.features = GetParam(), .queues = 2, .ring_size = 64}});
  for (std::uint64_t round = 0; round < 200; ++round) {
    const auto seed = static_cast<unsigned>(round);
    for (std::uint64_t i = 0; i < 4; ++i) {
      ASSERT_TRUE(rig.driver->submit(0, {.type = BlkRequestType::out,
                                         .sector = 8 * i,
                                         .data = pattern(512, static_cast<unsigned>(seed + i)),
                                         .piece = static_cast<std::uint32_t>(round % 3 * 128)}));
    }
    const auto moved = rig.port->rebind(QueueIndex{0}, round % 2 == 0 ? "soft-a" : "soft-b",
                                        {.path = round % 3 == 0 ? Path::direct : Path::relay});
    ASSERT_TRUE(moved) << moved.error().text();
    for (std::uint64_t i = 0; i < 4; ++i) ASSERT_EQ(rig.driver->await(0).status, BlkStatus::ok);
    ASSERT_FALSE(rig.driver->reap(0)) << "a request was used twice";
    for (std::uint64_t i = 0; i < 4; ++i) {
      ASSERT_EQ(rig.driver->run(1, {.type = BlkRequestType::in, .sector = 8 * i, .data = {}, .answer_bytes = 512}).data,
                pattern(512, static_cast<unsigned>(seed + i)));
    }
  }
}

TEST_P(RelayedDisk, AQueueMayBeAnotherOneOfItsDevice) {
  using virtio::BlkRequestType, virtio::BlkStatus;
  Accelerator* accel = nullptr;
  DiskRig rig(value_or_die(blk::RamStore::make(1 << 20)),
              {.driver = {.features = GetParam(), .queues = 4, .ring_size = 16},
               .wrap = [&accel](std::unique_ptr<vdpa::Device> disk) {
                 auto device = std::make_unique<Accelerator>(std::move(disk));
                 device->hide_doorbells();
                 accel = device.get();
                 return device;
               }});
  const auto bind = [&rig](std::uint16_t queue, std::string_view device, std::uint16_t device_queue,
                           std::optional<Path> path = std::nullopt) {
    return rig.port->rebind(QueueIndex{queue}, device, {.device_queue = QueueIndex{device_queue}, .path = path});
  };
  const auto places = [&rig] {
    std::vector<std::string> all;
    for (const auto& queue : rig.port->report().queues) {
      all.push_back(fmt::format("{} {} {}", queue.device, queue.device_queue, port::name_of(queue.path)));
    }
    return all;
  };
  const auto use_all = [&rig](unsigned seed) {
    for (std::uint16_t queue = 0; queue < 4; ++queue) {
      const auto data = pattern(512, seed + queue);
      ASSERT_EQ(rig.driver->run(queue, {.type = BlkRequestType::out, .sector = queue, .data = data}).status,
                BlkStatus::ok);
      ASSERT_EQ(
          rig.driver->run(queue, {.type = BlkRequestType::in, .sector = queue, .data = {}, .answer_bytes = 512}).data,
          data);
    }
  };
  EXPECT_EQ(bind(0, "accel", 3).error().code, Errc::busy);
  EXPECT_EQ(bind(0, "soft-b", 3).error().code, Errc::invalid_value) << "it must be able to take all of them";
  ASSERT_TRUE(bind(3, "soft-b", 3));
  ASSERT_TRUE(bind(0, "accel", 3));
  EXPECT_FALSE(accel->runs(0));
  EXPECT_TRUE(accel->runs(3));
  ASSERT_TRUE(bind(3, "accel", 0, Path::relay));
  const std::vector<std::string> crossed{"accel 3 direct", "accel 1 direct", "accel 2 direct", "accel 0 relay"};
  EXPECT_EQ(places(), crossed);
  use_all(1);
  accel->die();
  EXPECT_EQ(places(),
            std::vector<std::string>({"soft-b 0 direct", "soft-b 1 direct", "soft-b 2 direct", "soft-b 3 direct"}));
  use_all(2);
  accel->come_back();
  EXPECT_EQ(places(), crossed);
  use_all(3);
  const auto record = rig.port->record();
  EXPECT_EQ(record.queues[3].preferred_queue, 0);
  EXPECT_EQ(record.queues[3].path, Path::relay);
}

// Disks use out of order, and so do not offer IN_ORDER.
constexpr FeatureSet kDisk = kAll.without(Feature::in_order);
INSTANTIATE_TEST_SUITE_P(Rings, RelayedDisk, ::testing::Values(FeatureSet(), kPacked, kDisk, kPacked | kDisk),
                         name_of_rings);

}  // namespace
}  // namespace causeway::testing

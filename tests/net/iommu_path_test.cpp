// A software NIC behind an IOMMU: it translates what it transmits itself, and what it receives is relayed.

#include "net/nic.h"
#include "net/reflector.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "support/iommu_side.h"

namespace causeway::testing {
namespace {

using memory::Access, memory::Iova;
using virtio::DriverBuffer;
using virtio::Feature;
using virtio::FeatureSet;

constexpr std::uint64_t kPage = IommuSide::kPage;
constexpr std::uint32_t kEntries = 128;
constexpr std::uint32_t kSlot = 2048;
constexpr std::uint16_t kPairs = 2;

/// A driver of a NIC that gets back what it sends. Each buffer is mapped when it is offered, until it is used.
class Reflected {
 public:
  explicit Reflected(FeatureSet features) {
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(value_or_die(net::Nic::make(
        loop, {.name = "soft", .mac = {{0x52, 0x54, 0, 0, 0, 1}}, .queue_pairs = kPairs, .mtu = std::nullopt},
        std::make_shared<net::Reflector>(*worker, "mirror", net::Reflection::reflect))));
    nic = devices.front().get();
    port = value_or_die(
        port::Port::make(loop, {.name = "net0", .features_off = {}, .relay_worker = worker.get()}, std::move(devices)));
    features = features.with(Feature::version_1).with(Feature::access_platform);
    side = std::make_unique<IommuSide>(loop, *port, memory, features);
    for (std::uint16_t i = 0; i < 2 * kPairs; ++i) {
      memory.allocate(2 * kPage);  // rings share no page
      const auto config = memory.make_ring(kEntries, features);
      memory.allocate(2 * kPage);
      queues.push_back({.ring = value_or_die(virtio::DriverQueue::start(config, memory.map()))});
      side->start_queue(i, config, queues[i].kick, queues[i].call);
    }
    side->run();
  }

  /// Room for `count` frames that the NIC knows of before this returns.
  [[nodiscard]] bool make_room(std::uint16_t pair, std::uint32_t count) {
    const std::uint64_t before = hits();
    for (std::uint32_t i = 0; i < count; ++i)
      offer(static_cast<std::uint16_t>(2 * pair), memory.allocate(kSlot), kSlot);
    return eventually(loop, [&] {
      side->answer_all();
      return hits() >= before + count;
    });
  }
  void send(std::uint16_t pair, std::uint32_t number, Access access = Access::read) {
    const Iova place = memory.allocate(kSlot);
    const auto bytes = frame(number);
    const auto slot = memory.at(place, kSlot);
    slot.put(0, virtio::NetHeader{});
    slot.write(sizeof(virtio::NetHeader), bytes);
    offer(static_cast<std::uint16_t>(2 * pair + 1), place,
          static_cast<std::uint32_t>(sizeof(virtio::NetHeader) + bytes.size()), access);
  }
  /// Takes back what is used of a queue, and ends its mapping; returns how many.
  std::uint32_t reap(std::uint16_t index) {
    Queue& queue = queues[index];
    std::uint32_t count = 0;
    for (; const auto used = queue.ring.reap(); ++count) {
      const Buffer buffer = queue.buffers.at(used->token);
      queue.buffers.erase(used->token);
      side->unmap(buffer.at);
      if (index % 2 == 0) received.push_back(number_of(buffer.memory, used->written));
    }
    return count;
  }
  /// Until so many frames have come back and as many buffers were used.
  [[nodiscard]] bool await(std::uint16_t pair, std::size_t frames) {
    return eventually(loop, [&] {
      side->answer_all();
      reap(static_cast<std::uint16_t>(2 * pair));
      reap(static_cast<std::uint16_t>(2 * pair + 1));
      return received.size() >= frames && queues[2U * pair + 1].buffers.empty();
    });
  }
  port::PortReport report() {
    while (loop.run_ready()) continue;
    return port->report();
  }
  std::uint64_t hits() { return report().translation->hits; }
  std::uint64_t counted(std::uint16_t queue, std::string_view name) const {
    for (const auto& each : nic->counters(vdpa::QueueIndex{queue})) {
      if (each.name == name) return each.value;
    }
    return ~0ULL;
  }

  struct Buffer {
    Iova memory;
    Iova at;
  };
  struct Queue {
    virtio::DriverQueue ring;
    KickFd kick = value_or_die(KickFd::make());
    CallFd call = value_or_die(CallFd::make());
    std::map<std::uint64_t, Buffer> buffers{};  // in flight
  };
  static constexpr std::uint32_t kWrong = ~0U;
  Loop loop;
  std::unique_ptr<Worker> worker = value_or_die(Worker::start({.name = "test", .cpu = {}}));
  GuestMemory memory{16 << 20};
  vdpa::Device* nic = nullptr;
  std::unique_ptr<port::Port> port;
  std::unique_ptr<IommuSide> side;
  std::vector<Queue> queues;
  std::vector<std::uint32_t> received;  // numbers of frames, kWrong where one is not as it was sent

 private:
  void offer(std::uint16_t index, Iova place, std::uint32_t length, Access access = Access::read_write) {
    Queue& queue = queues[index];
    const Iova at = side->map({.first = place, .size = length}, access);
    const DriverBuffer buffer{.address = at, .length = length};
    const std::span<const DriverBuffer> none;
    const std::span<const DriverBuffer> one(&buffer, 1);
    const bool sends = index % 2 == 1;
    const std::uint64_t token = next_token_++;
    if (!queue.ring.add(sends ? one : none, sends ? none : one, token)) throw std::runtime_error("the ring is full");
    queue.buffers.emplace(token, Buffer{.memory = place, .at = at});
    queue.ring.publish();
    queue.kick.signal();
  }
  static std::vector<std::byte> frame(std::uint32_t number, bool returns = false) {
    std::vector<std::byte> bytes(60 + number * 37 % 1400, static_cast<std::byte>(number));
    net::EthernetHeader ethernet{
        .destination = {{0x52, 0x54, 0, 0, 0, 2}}, .source = {{0x52, 0x54, 0, 0, 0, 1}}, .ether_type = {0x88, 0xb5}};
    if (returns) std::swap(ethernet.destination, ethernet.source);
    std::memcpy(bytes.data(), &ethernet, sizeof ethernet);
    std::memcpy(bytes.data() + sizeof ethernet, &number, sizeof number);
    return bytes;
  }
  std::uint32_t number_of(Iova place, std::uint32_t written) const {
    if (written < sizeof(virtio::NetHeader) + 60) return kWrong;
    std::vector<std::byte> bytes(written - sizeof(virtio::NetHeader));
    memory.at(place, kSlot).read(sizeof(virtio::NetHeader), bytes);
    std::uint32_t number = 0;
    std::memcpy(&number, bytes.data() + sizeof(net::EthernetHeader), sizeof number);
    return bytes == frame(number, true) ? number : kWrong;
  }

  std::uint64_t next_token_ = 0;
};

std::vector<std::uint32_t> first_numbers(std::uint32_t count) {
  std::vector<std::uint32_t> numbers(count);
  for (std::uint32_t i = 0; i < count; ++i) numbers[i] = i;
  return numbers;
}

FeatureSet with_pairs(FeatureSet features) {
  return features.with(virtio::NetFeature::mq).with(virtio::NetFeature::ctrl_vq);
}

struct IommuPath : ::testing::TestWithParam<FeatureSet> {
  Reflected rig{with_pairs(GetParam())};
};

TEST_P(IommuPath, TransmitsDirectlyAndReceivesByRelay) {
  const auto report = rig.report();
  for (const auto& queue : report.queues) {
    if (queue.is_control) continue;
    EXPECT_EQ(queue.path, queue.index % 2 == 1 ? port::Path::direct : port::Path::relay) << queue.index;
    EXPECT_FALSE(queue.waits || queue.failed) << queue.index;
  }
}

TEST_P(IommuPath, FramesWaitForTheirAddressesAndNoneIsLost) {
  ASSERT_TRUE(rig.make_room(0, 20));
  for (std::uint32_t i = 0; i < 20; ++i) rig.send(0, i);
  ASSERT_TRUE(eventually(rig.loop, [&] { return rig.side->asked() != 0; }));
  rig.worker->run([] {});
  EXPECT_EQ(rig.reap(1), 0U);
  EXPECT_EQ(rig.reap(0), 0U);
  ASSERT_TRUE(rig.await(0, 20));
  EXPECT_EQ(rig.received, first_numbers(20));
  EXPECT_EQ(rig.counted(1, "packets"), 20U);
  EXPECT_EQ(rig.nic->translated(vdpa::QueueIndex{1}), 20U);
  EXPECT_EQ(rig.report().translation->hits, 40U);
  EXPECT_EQ(rig.side->mapped().size(), 2U * kPairs) << "the rings alone";
}

TEST_P(IommuPath, WhatIsDeniedStopsItsQueueAndNoOther) {
  ASSERT_TRUE(rig.make_room(1, 4));
  rig.send(0, 0, Access::write);
  ASSERT_TRUE(eventually(rig.loop, [&] {
    rig.side->answer_all();
    return rig.report().queues[1].failed;
  }));
  EXPECT_TRUE(has(rig.port->status(), vdpa::Status::needs_reset));
  EXPECT_EQ(rig.reap(1), 0U);
  for (const unsigned index : {0U, 2U, 3U}) EXPECT_FALSE(rig.report().queues[index].failed) << index;
  for (std::uint32_t i = 0; i < 4; ++i) rig.send(1, i);
  ASSERT_TRUE(rig.await(1, 4));
  EXPECT_EQ(rig.received, first_numbers(4));
}

INSTANTIATE_TEST_SUITE_P(Rings, IommuPath, ::testing::Values(FeatureSet{}, FeatureSet{Feature::ring_packed}));

/// The driver sends, takes back and unmaps; the IOMMU answers when it pleases, and ends translations in between, those
/// of the transmit ring too.
void sends_at_random(FeatureSet features) {
  Reflected rig(with_pairs(features));
  constexpr std::uint32_t kMost = 60;
  RC_ASSERT(rig.make_room(0, kMost));
  std::uint32_t sent = 0;
  const auto steps = *rc::gen::inRange(1, 150);
  for (int i = 0; i < steps; ++i) {
    const auto mapped = rig.side->mapped();
    switch (*rc::gen::inRange(0, 5)) {
      case 0:
        if (sent < kMost) rig.send(0, sent++);
        break;
      case 1:
        rig.side->answer_one();
        break;
      case 2:
        rig.reap(*rc::gen::inRange<std::uint16_t>(0, 2));
        break;
      case 3:
        // Behind the rings and the room: a frame that is sent, if there is one.
        if (!rig.queues[1].buffers.empty()) {
          rig.side->forget(std::next(rig.queues[1].buffers.begin(),
                                     *rc::gen::inRange<std::ptrdiff_t>(0, std::ssize(rig.queues[1].buffers)))
                               ->second.at);
        }
        break;
      default:
        if (*rc::gen::inRange(0, 4) == 0) rig.side->forget(mapped[1].first);
    }
  }
  RC_ASSERT(rig.await(0, sent));
  RC_ASSERT(rig.received == first_numbers(sent));
  RC_ASSERT(rig.counted(1, "packets") == sent);
}

RC_GTEST_PROP(IommuPaths, LoseNothingOnSplitRings, ()) {
  sends_at_random({});
}
RC_GTEST_PROP(IommuPaths, LoseNothingOnPackedRings, ()) {
  sends_at_random({Feature::ring_packed});
}

}  // namespace
}  // namespace causeway::testing

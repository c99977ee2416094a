// Cycles per packet of the device side alone, its driver side in the same thread and its memory in this core's cache:
// what the code costs where no other core is waited for. The least of many batches, which other load does not change.
#include "base/cycles.h"
#include "net/receive_queue.h"
#include "net/transmit_queue.h"
#include "port/relay_queue.h"
#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "support/guest_memory.h"

namespace {

using namespace causeway;
using testing::value_or_die;

constexpr std::uint32_t kEntries = 256;
constexpr std::uint32_t kSlot = 2048;
constexpr std::size_t kBatch = net::TransmitQueue::kBatch;
constexpr int kRounds = 4000;
constexpr std::uint64_t kMemory = 4 << 20;  // of a side

/// A driver side and its memory; `logs`: as during a migration, when the device side marks what it writes.
struct Side {
  Side(virtio::FeatureSet with, bool logs)
      : features(with.with(virtio::Feature::version_1)),
        ring(memory.make_ring(kEntries, features)),
        driver(value_or_die(virtio::DriverQueue::start(ring, memory.map()))) {
    driver.disarm();
    if (logs) {
      const std::uint64_t bytes = (testing::GuestMemory::kBase + kMemory) / memory::DirtyLog::kPage / 8 + 1;
      ring.log = value_or_die(memory::DirtyLog::map(value_or_die(make_memfd("log", bytes)), 0, bytes));
    }
    for (std::size_t i = 0; i < kEntries; ++i) buffers.push_back(memory.allocate(kSlot));
  }
  vdpa::QueueSetup setup() const { return {.ring = ring, .kick = std::nullopt, .call = std::nullopt}; }
  void offer(std::size_t count, bool writable, std::uint32_t length) {
    for (std::size_t i = 0; i < count; ++i) {
      const virtio::DriverBuffer buffer{.address = buffers[next % kEntries], .length = length};
      const std::span<const virtio::DriverBuffer> one(&buffer, 1);
      const std::span<const virtio::DriverBuffer> none;
      driver.add(writable ? none : one, writable ? one : none, next++);
    }
    driver.publish();
  }
  void reap() {
    while (driver.reap()) continue;
  }

  testing::GuestMemory memory{kMemory};
  virtio::FeatureSet features;
  virtio::RingConfig ring;
  virtio::DriverQueue driver;
  std::vector<memory::Iova> buffers;
  std::size_t next = 0;
};

template <class Work>
void least_of(std::uint64_t& least, Work work) {
  const std::uint64_t begin = read_cycles();
  work();
  least = std::min(least, read_cycles() - begin);
}

struct Cost {
  double transmit;
  double receive;
  double both;
};

Cost measure(virtio::FeatureSet features, std::uint32_t frame, bool logs) {
  Side sender(features, logs);
  Side receiver(features, logs);
  net::QueueCounters counters;
  const auto transmit = value_or_die(net::TransmitQueue::start(sender.setup(), sender.memory.map(), counters));
  const auto receive = value_or_die(net::ReceiveQueue::start(receiver.setup(), receiver.memory.map(), counters));
  const std::uint32_t bytes = frame + static_cast<std::uint32_t>(sizeof(virtio::NetHeader));
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  std::array least{kMost, kMost, kMost};
  for (int round = 0; round < kRounds; ++round) {
    sender.offer(kBatch, false, bytes);
    least_of(least[0], [&] { transmit->complete(transmit->take().size()); });
    sender.reap();

    sender.offer(kBatch, false, bytes);
    receiver.offer(kBatch, true, kSlot);
    const auto frames = transmit->take();
    least_of(least[1], [&] {
      receive->deliver(frames);
      receive->flush();
    });
    transmit->complete(frames.size());
    sender.reap();
    receiver.reap();

    sender.offer(kBatch, false, bytes);
    receiver.offer(kBatch, true, kSlot);
    least_of(least[2], [&] {
      const auto taken = transmit->take();
      receive->deliver(taken);
      receive->flush();
      transmit->complete(taken.size());
    });
    sender.reap();
    receiver.reap();
  }
  const auto each = [](std::uint64_t cycles) { return static_cast<double>(cycles) / kBatch; };
  return {.transmit = each(least[0]), .receive = each(least[1]), .both = each(least[2])};
}

/// Of a relay between that driver side and a device on a ring like it: a chain there, and back used. With a log, as for
/// a migration, what the device may have written is marked too.
double measure_relay(virtio::FeatureSet features, bool writable, bool logs) {
  Side side(features, logs);
  const auto shadow =
      value_or_die(port::ShadowRing::make("shadow", side.features, kEntries, memory::Iova(0x7f'0000'0000)));
  auto regions = side.memory.map()->regions();
  regions.push_back(shadow.region);
  auto device = value_or_die(
      virtio::DeviceQueue::start(shadow.config, value_or_die(memory::MemoryMap::make(std::move(regions)))));
  device.disarm();
  const auto relay = value_or_die(
      port::RelayQueue::start(side.setup(), port::RelayMaps::untranslated(side.memory.map()), shadow,
                              {.event = value_or_die(KickFd::make()), .doorbell = nullptr, .queue = {}}, nullptr));
  virtio::ChainBatch batch;
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  std::array least{kMost, kMost};
  for (int round = 0; round < kRounds; ++round) {
    side.offer(kBatch, writable, kSlot);
    least_of(least[0], [&] { relay->poll(); });
    batch.clear();
    device.take(batch, kBatch);
    for (const virtio::Chain& chain : batch.chains()) device.use(chain, writable ? kSlot : 0);
    device.publish();
    least_of(least[1], [&] { relay->poll(); });
    side.reap();
  }
  return static_cast<double>(least[0] + least[1]) / kBatch;
}

}  // namespace

int main() {
  using virtio::Feature, virtio::FeatureSet, virtio::NetFeature;
  const std::array<std::pair<const char*, FeatureSet>, 6> layouts{
      {{"split plain", {}},
       {"split mergeable", FeatureSet{NetFeature::mrg_rxbuf}},
       {"split in-order", FeatureSet{Feature::in_order}},
       {"packed plain", FeatureSet{Feature::ring_packed}},
       {"packed mergeable", FeatureSet{Feature::ring_packed}.with(NetFeature::mrg_rxbuf)},
       {"packed in-order", FeatureSet{Feature::ring_packed, Feature::in_order}}}};
  fmt::print("Cycles per packet of the device side, everything in this core's cache\n");
  fmt::print(
      "layout             frame   transmit   receive   one to the other   with a log: transmit   receive   one to the "
      "other\n");
  for (const std::uint32_t frame : {60U, 1514U}) {
    for (const auto& [name, features] : layouts) {
      const Cost cost = measure(features, frame, false);
      const Cost logged = measure(features, frame, true);
      fmt::print("{:<17} {:>6} {:>10.1f} {:>9.1f} {:>18.1f} {:>22.1f} {:>9.1f} {:>18.1f}\n", name, frame, cost.transmit,
                 cost.receive, cost.both, logged.transmit, logged.receive, logged.both);
    }
  }
  fmt::print("\nCycles per packet of a relay, whatever its size: rings of the same layout on both sides\n");
  fmt::print("layout             transmit   receive   with a log: transmit   receive\n");
  for (const auto& [name, features] : layouts) {
    fmt::print("{:<17} {:>9.1f} {:>9.1f} {:>22.1f} {:>9.1f}\n", name, measure_relay(features, false, false),
               measure_relay(features, true, false), measure_relay(features, false, true),
               measure_relay(features, true, true));
  }
}

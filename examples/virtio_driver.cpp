// A virtio network driver without a VMM: connects to any vhost-user back-end, sends frames, counts what comes back.
// Usage: virtio_driver SOCKET [FRAMES]
#include "vhost_user/frontend.h"
#include "virtio/net.h"
#include "virtio/split_driver_queue.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <thread>

using namespace causeway;

namespace {

constexpr std::uint32_t kRing = 256;          // entries
constexpr std::uint32_t kBuffer = 2048;       // bytes of one, virtio header included
constexpr std::uint64_t kMemory = 4 << 20;    // bytes: all rings and buffers
constexpr memory::Iova kBase(0x1'0000'0000);  // where the device sees them
constexpr std::uint32_t kFrame = sizeof(virtio::NetHeader) + 60;
constexpr auto kPatience = std::chrono::seconds(10);

/// A queue: its ring at the beginning of its half of the memory, a buffer for each entry behind it.
struct Queue {
  virtio::SplitDriverQueue ring;
  KickFd kick;
  memory::Iova buffers;

  virtio::DriverBuffer buffer(std::uint64_t i, std::uint32_t length = kBuffer) const {
    return {.address = memory::Iova(buffers.value() + i * kBuffer), .length = length};
  }
};

Result<Queue> start_queue(vdpa::Device& device, std::uint16_t index, std::shared_ptr<const memory::MemoryMap> map) {
  const std::uint64_t place = kBase.value() + index * (kMemory / 2);
  CW_TRY(const auto size, virtio::QueueSize::split(kRing));
  const virtio::RingConfig config{.size = size,
                                  .descriptors = memory::Iova(place),
                                  .available = memory::Iova(place + 0x1000),
                                  .used = memory::Iova(place + 0x2000),
                                  .features = virtio::FeatureSet{virtio::Feature::version_1},
                                  .start = {}};
  CW_TRY(auto ring, virtio::SplitDriverQueue::start(config, map));
  CW_TRY(auto kick, KickFd::make());
  CW_CHECK(device.set_queue(vdpa::QueueIndex{index}, {.ring = config, .kick = kick, .call = std::nullopt}));
  CW_CHECK(device.enable_queue(vdpa::QueueIndex{index}, true));
  return Queue{.ring = std::move(ring), .kick = kick, .buffers = memory::Iova(place + 0x10000)};
}

/// Sends `frames` and returns how many came back, once all have or none comes any more.
Result<std::uint64_t> run(const char* socket, std::uint64_t frames) {
  Loop loop;
  CW_TRY(const auto device, vhost_user::Frontend::make(loop, {.name = "device", .path = socket}));
  CW_CHECK(device->set_features(virtio::FeatureSet{virtio::Feature::version_1}));

  CW_TRY(auto file, make_memfd("driver", kMemory));
  CW_TRY(auto region, memory::Region::map(kBase, memory::FrontendVa(kBase.value()), kMemory, std::move(file), 0));
  CW_TRY(auto map, memory::MemoryMap::make({std::move(region)}));
  CW_CHECK(device->map(map->regions()));
  CW_TRY(auto receive, start_queue(*device, 0, map));
  CW_TRY(auto transmit, start_queue(*device, 1, map));

  const auto offer = [&](std::uint64_t i) {
    const auto whole = receive.buffer(i);
    receive.ring.add({}, {&whole, 1}, i);
  };
  for (std::uint64_t i = 0; i < kRing; ++i) offer(i);
  if (receive.ring.publish()) receive.kick.signal();  // before the first frame can come back
  std::uint64_t sent = 0;
  std::uint64_t returned = 0;
  auto last = std::chrono::steady_clock::now();
  while (returned < frames && std::chrono::steady_clock::now() - last < kPatience) {
    loop.run_ready();
    while (transmit.ring.reap()) continue;
    // Never more on their way than the receive ring has room for.
    for (; sent < frames && sent - returned < kRing / 2; ++sent) {
      const auto frame = transmit.buffer(sent % kRing, kFrame);
      if (!transmit.ring.add({&frame, 1}, {}, sent)) break;
    }
    if (transmit.ring.publish()) transmit.kick.signal();
    for (; const auto used = receive.ring.reap(); ++returned, last = std::chrono::steady_clock::now())
      offer(used->token);
    if (receive.ring.publish()) receive.kick.signal();
    std::this_thread::yield();
  }
  fmt::print("sent {} frames, {} came back\n", sent, returned);
  return returned;
}

}  // namespace

int main(int count, char** words) {
  if (count < 2) return 2;
  const std::uint64_t frames = count > 2 ? std::strtoull(words[2], nullptr, 10) : 10'000;
  const auto returned = run(words[1], frames);
  if (!returned) fmt::print(stderr, "{}\n", returned.error().text());
  return returned && *returned == frames ? 0 : 1;
}

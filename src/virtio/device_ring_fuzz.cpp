// A device queue over memory whose every byte is the fuzzer's: it must fault or serve, never touch anything else.

#include "virtio/device_queue.h"

#include <cstdlib>

#include "support/guest_memory.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace causeway;
using virtio::Chain, virtio::ChainBatch, virtio::DeviceQueue;

constexpr std::uint64_t kRegion = 8192;

void check(const ChainBatch& batch, const Chain& chain) {
  std::uint64_t readable = 0;
  for (const auto& segment : batch.readable(chain)) {
    readable += segment.size();
    std::byte sum{};
    for (std::size_t at = 0; at < segment.size(); at += 64) sum ^= segment.fetch<std::byte>(at);
    if (segment.size() > 2 * kRegion) std::abort();
  }
  if (readable != chain.readable_bytes) std::abort();
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) return 0;
  virtio::FeatureSet features;
  if ((data[0] & 1) != 0) features = features.with(virtio::Feature::indirect_desc);
  if ((data[0] & 2) != 0) features = features.with(virtio::Feature::event_idx);
  const bool packed = (data[0] & 4) != 0;
  if (packed) features = features.with(virtio::Feature::ring_packed);
  if ((data[0] & 8) != 0) features = features.with(virtio::Feature::in_order);
  testing::GuestMemory memory(kRegion, 2);
  auto ring = memory.make_ring(packed ? 1U + data[1] % 128 : 1U << (data[1] % 8), features);
  ring.start.avail = static_cast<std::uint16_t>(data[2] | data[3] << 8);
  if (packed) ring.start.used = ring.start.avail;
  std::size_t at = 4;
  // Everything after the first bytes is memory, ring areas first; the second region begins where the first ends.
  for (std::uint64_t region = 0; region < 2 && at < size; ++region) {
    const std::size_t count = std::min<std::size_t>(kRegion, size - at);
    memory.at(memory::Iova(testing::GuestMemory::kBase + region * kRegion), kRegion)
        .write(0, std::as_bytes(std::span(data + at, count)));
    at += count;
  }
  auto queue = DeviceQueue::start(ring, memory.map(), virtio::Remember::in_flight);
  if (!queue) return 0;
  ChainBatch batch;
  for (int pass = 0; pass < 4; ++pass) {
    batch.clear();
    const auto taken = queue->take(batch, 32);
    if (taken != batch.size()) std::abort();
    for (const Chain& chain : batch.chains()) check(batch, chain);
    if (pass == 1) {
      // Another engine goes on with what this one holds.
      ring.start = queue->state(batch.chains());
      if (auto next = DeviceQueue::start(ring, memory.map(), virtio::Remember::in_flight)) queue = std::move(next);
      continue;
    }
    if (pass == 2) {
      queue->untake(batch.chains());
      continue;
    }
    for (const Chain& chain : batch.chains()) queue->use(chain, static_cast<std::uint32_t>(chain.writable_bytes));
    queue->publish();
    queue->arm();
    queue->disarm();
  }
  return 0;
}

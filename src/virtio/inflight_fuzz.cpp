// In-flight records of arbitrary bytes: recover() says what is wrong, or something that a device side can start with.
#include "virtio/device_queue.h"
#include "virtio/inflight.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "support/guest_memory.h"

namespace causeway::virtio {
namespace {

using testing::GuestMemory;
using testing::value_or_die;

constexpr std::uint32_t kEntries = 8;

/// A ring with a record; made once, since it is the bytes that matter.
struct Rig {
  explicit Rig(Layout layout)
      : config(memory.make_ring(kEntries, layout == Layout::packed ? FeatureSet{Feature::ring_packed} : FeatureSet())),
        region(value_or_die(InflightRegion::make(layout, 1, value_or_die(QueueSize::make(layout, kEntries))))),
        area(std::make_shared<const InflightArea>(*region.area(QueueIndex{0}, layout, config.size))) {}

  void try_bytes(std::span<const std::byte> bytes) {
    const auto areas = value_or_die(RingAreas::locate(config, *memory.map()));
    const auto fill = [&bytes](const memory::GuestSpan& span) {
      const std::size_t count = std::min(span.size(), bytes.size());
      span.write(0, bytes.first(count));
      bytes = bytes.subspan(count);
    };
    fill(area->bytes);
    fill(area->log);
    fill(areas.used);
    fill(areas.descriptors);
    auto recovered = recover(*area, config, *memory.map());
    if (!recovered || !*recovered) return;
    RingConfig next = config;
    next.start = **recovered;
    next.record = area;
    auto device = DeviceQueue::start(next, memory.map(), Remember::in_flight);
    if (!device) return;
    ChainBatch batch;
    device->take(batch, kEntries);
    for (const Chain& chain : batch.chains()) device->use(chain, 0);
    device->publish();
  }

  GuestMemory memory;
  RingConfig config;
  InflightRegion region;
  std::shared_ptr<const InflightArea> area;
};

}  // namespace
}  // namespace causeway::virtio

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace causeway::virtio;
  static Rig split(Layout::split);
  static Rig packed(Layout::packed);
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size));
  (data[0] % 2 == 0 ? split : packed).try_bytes(bytes.subspan(1));
  return 0;
}

#include "virtio_pci/control_driver.h"

#include "base/log.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace causeway::virtio_pci {
namespace {

constexpr std::uint16_t kEntries = 64;
constexpr std::uint64_t kRingBytes = 4096;  // of each area
constexpr std::uint64_t kSlots = kEntries / 2;
constexpr std::uint64_t kSlotBytes = 4096;  // a command, and its answer in the last byte

}  // namespace

std::uint64_t ControlDriver::size() {
  return 3 * kRingBytes + kSlots * kSlotBytes;
}

Result<std::unique_ptr<ControlDriver>> ControlDriver::make(Loop& loop, vfio::Bus& bus, std::string name,
                                                           memory::Iova at, virtio::FeatureSet features,
                                                           std::function<void()> ring_doorbell) {
  CW_TRY(auto file, make_memfd("virtio-control", size()));
  CW_TRY(auto region, memory::Region::map(at, memory::FrontendVa(at.value()), size(), std::move(file), 0));
  CW_TRY(auto map, memory::MemoryMap::make({region}));
  const auto layout = virtio::layout_of(features);
  CW_TRY(const auto entries, virtio::QueueSize::make(layout, kEntries));
  const virtio::RingConfig ring{.size = entries,
                                .descriptors = at,
                                .available = memory::Iova(at.value() + kRingBytes),
                                .used = memory::Iova(at.value() + 2 * kRingBytes),
                                .features = features.without(virtio::Feature::indirect_desc),
                                .start = virtio::QueueState::initial(layout)};
  CW_TRY(auto queue, virtio::DriverQueue::start(ring, map));
  CW_TRY(auto event, EventFd::make());
  CW_CHECK(bus.dma_map(region));
  std::unique_ptr<ControlDriver> driver(new ControlDriver(bus, std::move(name), std::move(region), ring, std::move(map),
                                                          std::move(queue), std::move(event),
                                                          std::move(ring_doorbell)));
  driver->watch_.emplace(loop.watch(driver->event_.fd(), [self = driver.get()] {
    self->event_.drain();
    self->reap();
  }));
  driver->queue_.arm();
  return driver;
}

ControlDriver::ControlDriver(vfio::Bus& bus, std::string name, memory::Region region, virtio::RingConfig ring,
                             std::shared_ptr<const memory::MemoryMap> map, virtio::DriverQueue queue, EventFd event,
                             std::function<void()> ring_doorbell)
    : bus_(bus),
      name_(std::move(name)),
      region_(std::move(region)),
      ring_(std::move(ring)),
      map_(std::move(map)),
      queue_(std::move(queue)),
      event_(std::move(event)),
      ring_doorbell_(std::move(ring_doorbell)) {}

ControlDriver::~ControlDriver() {
  watch_.reset();
  // A function that has gone has unmapped it by itself.
  if (auto done = bus_.dma_unmap(region_); !done && done.error().code != Errc::gone) {
    log::warn("device {}: {}", name_, done.error().text());
  }
}

bool ControlDriver::tell(std::span<const std::byte> command) {
  reap();
  if (command.size() >= kSlotBytes || queue_.is_broken() || queue_.in_flight() >= kSlots) return false;
  const std::uint64_t slot = next_slot_++ % kSlots;
  const memory::Iova at(region_.iova.value() + 3 * kRingBytes + slot * kSlotBytes);
  const auto memory = map_->translate(at, kSlotBytes);
  memory->write(0, command);
  const std::array readable{virtio::DriverBuffer{.address = at, .length = static_cast<std::uint32_t>(command.size())}};
  const std::array writable{virtio::DriverBuffer{.address = memory::Iova(at.value() + kSlotBytes - 1), .length = 1}};
  if (!queue_.add(readable, writable, slot)) return false;
  if (queue_.publish()) ring_doorbell_();
  return true;
}

void ControlDriver::reap() {
  do {
    while (const auto used = queue_.reap()) {
      const memory::Iova at(region_.iova.value() + 3 * kRingBytes + used->token * kSlotBytes);
      const auto answer = map_->translate(at, kSlotBytes)->fetch<std::uint8_t>(kSlotBytes - 1);
      if (answer != 0) log::warn("device {}: refused a control command that was accepted before", name_);
    }
  } while (queue_.arm());
}

}  // namespace causeway::virtio_pci

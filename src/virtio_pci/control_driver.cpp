#include "virtio_pci/control_driver.h"

#include "base/log.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace causeway::virtio_pci {
namespace {

constexpr std::uint64_t kRingBytes = 4096;  // of each area
constexpr std::uint64_t kSlotBytes = 4096;  // a command, and its answer at the end

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

memory::Iova ControlDriver::address_of(std::size_t slot) const {
  return memory::Iova(region_.iova.value() + 3 * kRingBytes + slot * kSlotBytes);
}

bool ControlDriver::send(std::span<const std::byte> command, std::size_t answer_bytes, OnAnswer on_answer) {
  reap();
  const auto free = std::ranges::find(slots_, false, &Slot::is_used);
  const std::size_t writable_bytes = 1 + answer_bytes;
  if (command.size() + writable_bytes > kSlotBytes || queue_.is_broken() || free == slots_.end()) return false;
  const auto slot = static_cast<std::size_t>(free - slots_.begin());
  const memory::Iova at = address_of(slot);
  const memory::Iova answer(at.value() + kSlotBytes - writable_bytes);
  const auto memory = map_->translate(at, kSlotBytes);
  memory->write(0, command);
  // A function may say that it has written more than it has.
  memory->write(kSlotBytes - writable_bytes, std::vector<std::byte>(writable_bytes));
  const std::array readable{virtio::DriverBuffer{.address = at, .length = static_cast<std::uint32_t>(command.size())}};
  const std::array writable{
      virtio::DriverBuffer{.address = answer, .length = static_cast<std::uint32_t>(writable_bytes)}};
  if (!queue_.add(readable, writable, slot)) return false;
  *free = {.is_used = true, .answer_bytes = answer_bytes, .on_answer = std::move(on_answer)};
  if (queue_.publish()) ring_doorbell_();
  return true;
}

void ControlDriver::reap() {
  do {
    while (const auto used = queue_.reap()) take_answer(used->token, used->written);
  } while (queue_.arm());
}

void ControlDriver::take_answer(std::size_t slot, std::size_t written) {
  Slot done = std::exchange(slots_[slot], Slot{});
  std::vector<std::byte> answer(1 + done.answer_bytes);
  map_->translate(address_of(slot), kSlotBytes)->read(kSlotBytes - answer.size(), answer);
  const bool is_refused = answer.front() != std::byte{0};
  if (!done.on_answer) {
    if (is_refused) log::warn("device {}: refused a control command that was accepted before", name_);
  } else if (is_refused) {
    done.on_answer(fail(Errc::not_supported, fmt::format("device {}: it refuses to answer", name_)));
  } else {
    const std::size_t count = std::min(answer.size(), std::max<std::size_t>(written, 1));
    done.on_answer(std::span<const std::byte>(answer).subspan(1, count - 1));
  }
}

}  // namespace causeway::virtio_pci

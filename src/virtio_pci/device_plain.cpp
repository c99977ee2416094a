// Functions without the ring-state capability: they say nothing of their rings, which must be read from the rings
// themselves once the function has been made to stop. Split rings only.
#include "base/log.h"
#include "virtio_pci/device.h"

#include <fmt/format.h>

#include <thread>
#include <utility>

namespace causeway::virtio_pci {
namespace {

/// How long the other queues of a function that was reset as a whole may stand still, at most.
constexpr std::chrono::milliseconds kStopTogether{100};

}  // namespace

bool Device::is_transmit(virtio::QueueIndex index) const {
  return info_.type == virtio::DeviceType::net && virtio::number(index) % 2 == 1;
}

Result<vdpa::QueueState> Device::halt_plain(virtio::QueueIndex index, Queue& queue) {
  const bool is_receive = info_.type == virtio::DeviceType::net && !is_transmit(index);
  if (!is_receive) drain(index, queue.setup.ring);
  // QEMU's disks go on with requests of a queue that was reset, and finish them only when the whole function is.
  const bool can_reset_one = info_.type != virtio::DeviceType::block && offered_.has(virtio::Feature::ring_reset) &&
                             common_->has(&CommonCfg::queue_reset);
  CW_CHECK(can_reset_one ? reset_queue(index) : reset_all_queues());
  return position_after_reset(index, queue.setup.ring);
}

/// Waits until the function has used all that was made available, for a limited time: a guest that goes on adding
/// never lets it come to an end.
void Device::drain(virtio::QueueIndex index, const virtio::RingConfig& ring) const {
  const auto areas = virtio::RingAreas::locate(ring, *map_);
  if (!areas) return;
  const auto deadline = std::chrono::steady_clock::now() + config_.patience;
  const auto index_in = [](const memory::GuestSpan& area) {
    return area.load<std::uint16_t>(virtio::kRingIndex, std::memory_order_acquire);
  };
  while (index_in(areas->used) != index_in(areas->available)) {
    if (std::chrono::steady_clock::now() > deadline) {
      log::warn("device {} queue {}: does not come to an end in {} ms", info_.name, virtio::number(index),
                config_.patience.count());
      return;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

/// 4.1.4.3.2, 2.6.1.
Result<void> Device::reset_queue(virtio::QueueIndex index) const {
  CW_CHECK(common_->set(&CommonCfg::queue_select, virtio::number(index)));
  CW_CHECK(common_->set(&CommonCfg::queue_reset, std::uint16_t{1}));
  const auto deadline = std::chrono::steady_clock::now() + config_.patience;
  for (;;) {
    CW_TRY(const std::uint16_t pending, common_->get(&CommonCfg::queue_reset));
    if (pending == 0) return {};
    if (std::chrono::steady_clock::now() > deadline) {
      return fail(Errc::gone, fmt::format("queue {} does not reset", virtio::number(index)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/// The function can only be reset as a whole. Its other queues cannot go on where they stood: the port is told to take
/// them elsewhere, unless it stops them too, as it does for a front-end that ends its queues one by one.
Result<void> Device::reset_all_queues() {
  const auto features = *negotiated_;
  for (auto& [index, queue] : queues_) {
    if (queue.started && (info_.type != virtio::DeviceType::net || is_transmit(index))) drain(index, queue.setup.ring);
  }
  CW_CHECK(negotiate(features));
  for (auto& [index, queue] : queues_) {
    if (!std::exchange(queue.started, false)) continue;
    queue.watch_kick.reset();
    CW_TRY(queue.setup.ring.start, position_after_reset(index, queue.setup.ring));
    last_states_.insert_or_assign(index, queue.setup.ring.start);
  }
  tell_soon_.emplace(loop_.after(kStopTogether, [this] {
    if (!queues_.empty())
      bus_gone({.code = Errc::gone, .what = "one queue stopped, and the function resets as a whole"});
  }));
  return {};
}

/// Where the next Device must resume. Nobody works the ring.
Result<vdpa::QueueState> Device::position_after_reset(virtio::QueueIndex index, const virtio::RingConfig& ring) const {
  CW_TRY(const auto areas, virtio::RingAreas::locate(ring, *map_));
  auto used = areas.used.load<std::uint16_t>(virtio::kRingIndex, std::memory_order_acquire);
  const auto available = areas.available.load<std::uint16_t>(virtio::kRingIndex, std::memory_order_acquire);
  const std::uint16_t left = static_cast<std::uint16_t>(available - used);
  const std::uint16_t entries = ring.size.entries();
  if (is_transmit(index) && left != 0 && left <= entries) {
    // They may have been sent: twice would be worse than not at all.
    log::info("device {} queue {}: {} frames on their way when it stopped are not sent again", info_.name,
              virtio::number(index), left);
    for (std::uint16_t i = 0; i < left; ++i, ++used) {
      const auto place = static_cast<std::size_t>(used % entries);
      const auto head = areas.available.fetch<std::uint16_t>(virtio::kRingEntries + 2 * place);
      areas.used.put(virtio::kRingEntries + sizeof(virtio::UsedElement) * place,
                     virtio::UsedElement{.id = head, .length = 0});
    }
    areas.used.store(virtio::kRingIndex, used, std::memory_order_release);
  }
  return vdpa::QueueState{.avail = used, .used = used, .in_flight = {}};
}

}  // namespace causeway::virtio_pci

#include "virtio_pci/ring_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::virtio_pci {

Result<void> RingState::begin(virtio::Layout layout, std::uint16_t queues, virtio::QueueSize entries) {
  region_.reset();
  CW_CHECK(registers_.set(&RingStateCfg::record_entries, entries.entries()));
  CW_TRY(const auto taken, registers_.get(&RingStateCfg::record_entries));
  if (taken != entries.entries()) {
    return fail(Errc::not_supported, fmt::format("it keeps no records of rings of {} entries", entries.entries()));
  }
  CW_TRY(const auto bar, registers_.get(&RingStateCfg::record_bar));
  CW_TRY(const auto offset, registers_.get(&RingStateCfg::record_offset));
  CW_TRY(const auto room, registers_.get(&RingStateCfg::record_bytes));
  const std::uint64_t bytes = std::min(room, virtio::InflightRegion::full_size(layout, queues, entries));
  const auto file =
      bar < 6 ? bus_.file_of(static_cast<vfio::RegionIndex>(bar), {.offset = offset, .size = bytes}) : std::nullopt;
  if (!file) return fail(Errc::not_supported, "its records cannot be mapped");
  CW_TRY(auto fd, file->fd.duplicate());
  CW_TRY(region_, virtio::InflightRegion::adopt(layout, queues, entries, std::move(fd), file->offset, bytes));
  return {};
}

bool RingState::keeps(virtio::QueueIndex queue, const virtio::RingConfig& ring) const {
  return region_ && region_->area(queue, ring.layout(), ring.size).has_value();
}

Result<void> RingState::put_start(virtio::QueueIndex queue, const virtio::RingConfig& ring,
                                  const memory::MemoryMap& map) const {
  return virtio::record_start(*region_->area(queue, ring.layout(), ring.size), ring, map);
}

Result<void> RingState::stop(virtio::QueueIndex queue, vdpa::StopMode mode) const {
  const std::uint16_t command = mode == vdpa::StopMode::leave ? kStopLeave : kStopDrain;
  Batch batch(bus_);
  registers_.set(batch, &RingStateCfg::queue_select, virtio::number(queue));
  registers_.set(batch, &RingStateCfg::queue_stop, command);
  const auto answer = registers_.get(batch, &RingStateCfg::queue_stop);
  CW_CHECK(batch.run());
  if (batch.value<std::uint16_t>(answer) == 0) return {};
  return fail(Errc::system, fmt::format("queue {} does not stop", virtio::number(queue)));
}

Result<vdpa::QueueState> RingState::state(virtio::QueueIndex queue, const virtio::RingConfig& ring,
                                          const memory::MemoryMap& map) const {
  const auto area = region_ ? region_->area(queue, ring.layout(), ring.size) : std::nullopt;
  if (!area) return fail(Errc::gone, fmt::format("there is no record of queue {}", virtio::number(queue)));
  CW_TRY(auto recorded, virtio::recover(*area, ring, map));
  if (recorded) return std::move(*recorded);
  if (ring.layout() == virtio::Layout::packed) {
    return fail(Errc::gone, fmt::format("there is nothing in the record of queue {}", virtio::number(queue)));
  }
  // Nothing is recorded of a split ring whose device uses all that it has taken.
  CW_TRY(const auto areas, virtio::RingAreas::locate(ring, map));
  const auto used = areas.used.load<std::uint16_t>(virtio::kRingIndex, std::memory_order_acquire);
  return vdpa::QueueState{.avail = used, .used = used, .in_flight = {}};
}

}  // namespace causeway::virtio_pci

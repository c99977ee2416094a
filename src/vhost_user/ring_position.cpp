#include "vhost_user/ring_position.h"

namespace causeway::vhost_user {

Result<std::uint32_t> wire_position(const virtio::RingConfig& ring, const memory::MemoryMap& map) {
  const auto& in_flight = ring.start.in_flight;
  const auto position = static_cast<std::uint16_t>(ring.start.avail_idx - in_flight.size());
  if (in_flight.empty()) return position;
  CW_TRY(const auto areas, virtio::SplitAreas::locate(ring, map));
  for (std::size_t i = 0; i < in_flight.size(); ++i) {
    const std::size_t entry = static_cast<std::uint16_t>(position + i) % ring.size.entries();
    if (areas.available.fetch<std::uint16_t>(virtio::kRingEntries + 2 * entry) == in_flight[i]) continue;
    return fail(Errc::not_supported, "buffers in flight out of order cannot be handed over by vhost-user");
  }
  return position;
}

virtio::QueueState state_at(std::uint32_t wire_position) {
  return {.avail_idx = static_cast<std::uint16_t>(wire_position), .in_flight = {}};
}

Result<virtio::QueueState> state_in_ring(const virtio::RingConfig& ring, const memory::MemoryMap& map) {
  CW_TRY(const auto areas, virtio::SplitAreas::locate(ring, map));
  return virtio::QueueState{.avail_idx = areas.used.fetch<std::uint16_t>(virtio::kRingIndex), .in_flight = {}};
}

}  // namespace causeway::vhost_user

#include "vhost_user/ring_position.h"

#include <fmt/format.h>

namespace causeway::vhost_user {
namespace {

/// Whether a split ring's chains in flight are those made available last, in their order, so that a position says it
/// all.
Result<void> check_in_order(const virtio::RingConfig& ring, const memory::MemoryMap& map, std::uint16_t position) {
  const auto& in_flight = ring.start.in_flight;
  CW_TRY(const auto areas, virtio::RingAreas::locate(ring, map));
  for (std::size_t i = 0; i < in_flight.size(); ++i) {
    const std::size_t entry = static_cast<std::uint16_t>(position + i) % ring.size.entries();
    if (areas.available.fetch<std::uint16_t>(virtio::kRingEntries + 2 * entry) == in_flight[i].id) continue;
    return fail(Errc::not_supported, "buffers in flight out of order cannot be handed over by vhost-user");
  }
  return {};
}

}  // namespace

std::uint32_t encode_position(virtio::Layout layout, const virtio::QueueState& state) {
  return layout == virtio::Layout::split ? state.avail : state.avail | std::uint32_t{state.used} << 16;
}

Result<virtio::QueueState> decode_position(virtio::Layout layout, std::uint32_t position) {
  const auto avail = static_cast<std::uint16_t>(position & 0xffff);
  const auto used = static_cast<std::uint16_t>(position >> 16);
  if (layout == virtio::Layout::split && used != 0) {
    return fail(Errc::peer_violation, fmt::format("available index {}, a split ring's has 16 bits", position));
  }
  // DPDK knows of the available half alone. With nothing in flight the two are the same place.
  return virtio::QueueState{.avail = avail, .used = used == 0 ? avail : used, .in_flight = {}};
}

Result<std::uint32_t> wire_position(const virtio::RingConfig& ring, const memory::MemoryMap& map) {
  const auto& in_flight = ring.start.in_flight;
  if (in_flight.empty()) return encode_position(ring.layout(), ring.start);
  if (ring.layout() == virtio::Layout::packed) {
    return fail(Errc::not_supported, "buffers in flight in a packed ring cannot be handed over by vhost-user");
  }
  const auto position = static_cast<std::uint16_t>(ring.start.avail - in_flight.size());
  CW_CHECK(check_in_order(ring, map, position));
  return position;
}

Result<std::uint32_t> recorded_position(const virtio::RingConfig& ring, const memory::MemoryMap& map) {
  if (ring.layout() == virtio::Layout::packed) {
    return encode_position(ring.layout(), {.avail = ring.start.used, .used = ring.start.used, .in_flight = {}});
  }
  CW_TRY(const auto state, state_in_ring(ring, map));
  return encode_position(ring.layout(), state);
}

Result<virtio::QueueState> state_in_ring(const virtio::RingConfig& ring, const memory::MemoryMap& map) {
  if (ring.layout() == virtio::Layout::packed) {
    // A used descriptor of several entries leaves the others as they were: where a lap ends cannot be told from them.
    return fail(Errc::gone, "the position in a packed ring went with its device");
  }
  CW_TRY(const auto areas, virtio::RingAreas::locate(ring, map));
  const auto used = areas.used.fetch<std::uint16_t>(virtio::kRingIndex);
  return virtio::QueueState{.avail = used, .used = used, .in_flight = {}};
}

}  // namespace causeway::vhost_user

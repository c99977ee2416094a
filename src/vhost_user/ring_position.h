// Where a ring stands, as SET_VRING_BASE and GET_VRING_BASE carry it and as the ring itself shows it.
// Spec: QEMU docs/interop/vhost-user.rst, "SET_VRING_BASE", "GET_VRING_BASE".
#pragma once

#include "base/result.h"
#include "memory/memory_map.h"
#include "virtio/ring.h"

#include <cstdint>

namespace causeway::vhost_user {

/// A position as the messages carry it: a split ring's available index; of a packed ring both positions, each with its
/// wrap counter.
std::uint32_t encode_position(virtio::Layout layout, const virtio::QueueState& state);
/// The reverse, with nothing in flight. Errc::peer_violation: more bits than a split ring's index has.
Result<virtio::QueueState> decode_position(virtio::Layout layout, std::uint32_t position);

/// The payload of SET_VRING_BASE for a ring that starts at `ring.start`. What is in flight is run again by the
/// back-end, which can only be said when it is the last that was made available: Errc::not_supported otherwise.
Result<std::uint32_t> wire_position(const virtio::RingConfig& ring, const memory::MemoryMap& map);
/// The same for a back-end that has a record of what is in flight, which it adds by itself: the used position.
/// Errc::peer_violation: the ring is not in memory.
Result<std::uint32_t> recorded_position(const virtio::RingConfig& ring, const memory::MemoryMap& map);
/// Where a ring stands whose device side has gone: at what it used last. What was in flight is run again.
/// Errc::peer_violation: the ring is not in memory. Errc::gone: a packed ring does not tell.
Result<virtio::QueueState> state_in_ring(const virtio::RingConfig& ring, const memory::MemoryMap& map);

}  // namespace causeway::vhost_user

// Where a ring stands, as SET_VRING_BASE and GET_VRING_BASE carry it and as the ring itself shows it.
// Spec: QEMU docs/interop/vhost-user.rst, "SET_VRING_BASE", "GET_VRING_BASE".
#pragma once

#include "base/result.h"
#include "memory/memory_map.h"
#include "virtio/ring.h"

#include <cstdint>

namespace causeway::vhost_user {

/// The payload of SET_VRING_BASE for a ring that starts at `ring.start`. What is in flight is run again by the
/// back-end, which can only be said when it is the last that was made available: Errc::not_supported otherwise.
Result<std::uint32_t> wire_position(const virtio::RingConfig& ring, const memory::MemoryMap& map);
/// The answer to GET_VRING_BASE: a back-end has nothing in flight by then.
virtio::QueueState state_at(std::uint32_t wire_position);
/// Where a ring stands whose device side has gone: at what it used last. What was in flight is run again.
/// Errc::peer_violation: the ring is not in memory.
Result<virtio::QueueState> state_in_ring(const virtio::RingConfig& ring, const memory::MemoryMap& map);

}  // namespace causeway::vhost_user

// What a front-end is offered of a port.
#pragma once

#include "port/port.h"
#include "vhost_user/message_table.h"
#include "vhost_user/session.h"

#include <cstddef>

namespace causeway::vhost_user {

/// Features of the virtio device. Thread: control.
inline virtio::FeatureSet offered_features(const port::Port& port) {
  // To reset one ring, a front-end would have to stop and start it here. QEMU (10.0) does not for a vhost-user NIC: the
  // driver's new ring would be worked at the old one's position.
  return port.offered_features().without(virtio::Feature::ring_reset);
}

/// How many regions its memory may have.
inline std::size_t offered_memory_slots(const SessionOptions& options) {
  // Without CONFIGURE_MEM_SLOTS a front-end keeps to the document, whatever we would take.
  constexpr std::size_t kDocumented = 8;
  const auto offered = offered_protocol_features(options.configured());
  return offered.has(ProtocolFeature::configure_mem_slots) ? kMaxMemorySlots : kDocumented;
}

}  // namespace causeway::vhost_user

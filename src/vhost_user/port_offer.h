// What a front-end is offered of a port.
#pragma once

#include "port/port.h"

namespace causeway::vhost_user {

/// Features of the virtio device. Thread: control.
inline virtio::FeatureSet offered_features(const port::Port& port) {
  // To reset one ring, a front-end would have to stop and start it here. QEMU (10.0) does not for a vhost-user NIC: the
  // driver's new ring would be worked at the old one's position.
  return port.offered_features().without(virtio::Feature::ring_reset);
}

}  // namespace causeway::vhost_user

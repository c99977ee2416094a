// Counters of one queue: written by its worker alone, read by the control thread.
#pragma once

#include "base/counter.h"
#include "vdpa/device.h"

#include <vector>

namespace causeway::net {

/// What happened on a queue. It outlives the running queue, so that counts go on over stop and rebind.
struct alignas(64) QueueCounters {
  Counter packets;               ///< moved
  Counter bytes;                 ///< moved, Ethernet header included
  Counter kicks;                 ///< notifications by the driver that were received
  Counter calls;                 ///< notifications sent to the driver
  Counter translated;            ///< buffers, behind an IOMMU
  Counter resolved_in_software;  ///< frames whose offloads the receiver could not take; on the receive queue

  // On the receive queue, of frames that were to go there.
  Counter
      dropped_no_buffer;     ///< the driver had offered none; also of a tap that is down or full, on the transmit queue
  Counter dropped_too_long;  ///< the frame did not fit into what the driver offered
  Counter dropped_filtered;  ///< the driver does not want it: address or VLAN

  // On the transmit queue that the frame came from.
  Counter dropped_bad_frame;    ///< shorter than an Ethernet header, or longer than 64 KiB
  Counter dropped_bad_header;   ///< the virtio header contradicts the frame, or asks for what was not negotiated
  Counter dropped_disabled;     ///< the queue, or every receive queue of the receiver, is disabled
  Counter dropped_no_receiver;  ///< nobody is connected, or no receive queue of the receiver runs
  Counter dropped_awaited;      ///< the receive queue was being moved and did not come back in time

  std::vector<vdpa::Counter> report() const {
    return {{"packets", packets.value()},
            {"bytes", bytes.value()},
            {"kicks", kicks.value()},
            {"calls", calls.value()},
            {"resolved_in_software", resolved_in_software.value()},
            {"dropped_no_buffer", dropped_no_buffer.value()},
            {"dropped_too_long", dropped_too_long.value()},
            {"dropped_filtered", dropped_filtered.value()},
            {"dropped_bad_frame", dropped_bad_frame.value()},
            {"dropped_bad_header", dropped_bad_header.value()},
            {"dropped_disabled", dropped_disabled.value()},
            {"dropped_no_receiver", dropped_no_receiver.value()},
            {"dropped_awaited", dropped_awaited.value()}};
  }
};

}  // namespace causeway::net

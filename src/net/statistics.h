// Commands of the control virtqueue that ask what the device has counted (DEVICE_STATS). Spec: virtio 1.4 section
// 5.1.6.5, "Device Statistics".
#pragma once

#include "net/counters.h"
#include "vdpa/device.h"
#include "virtio/feature.h"
#include "virtio/net_statistics.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace causeway::net {

/// The types that a NIC has, all of whose counters it keeps.
inline constexpr std::uint64_t kStatisticsTypes =
    virtio::bit_of(virtio::NetStatistics::receive_basic) | virtio::bit_of(virtio::NetStatistics::transmit_basic);

/// Whether the command, as the driver sent it, is of that class.
bool is_statistics(std::span<const std::byte> command);

/// Answers such a command. `counters`: one for each data queue of the device, of which those that `negotiated` gives
/// the driver can be asked about. Refused as a whole: anything malformed, or not negotiated.
vdpa::ControlReply answer_statistics(std::span<const std::byte> command, virtio::FeatureSet negotiated,
                                     std::span<const QueueCounters> counters);

}  // namespace causeway::net

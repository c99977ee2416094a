// Whether a port can take a guest that leaves the port of another daemon: what is compared, as values.
#pragma once

#include "base/result.h"
#include "virtio/feature.h"

#include <control/causeway.pb.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::daemon {

/// What a port is to a guest that would come to it. Value type.
struct MigrationTarget {
  std::string name;
  std::string refused;        ///< why it does not serve; empty: it does
  bool is_vhost_user = true;  ///< else a function, whose driver no front-end migrates
  bool has_guest = false;     ///< that runs
  std::string unusable;       ///< why none of its Devices can work a queue; empty: one can
  virtio::DeviceType type = virtio::DeviceType::net;
  virtio::FeatureSet offered;      ///< to a front-end
  std::uint32_t queues = 0;        ///< the control queue not among them
  std::uint32_t largest_ring = 0;  ///< entries
  std::vector<std::byte> config;   ///< configuration space
  std::uint32_t memory_slots = 0;
  bool records_in_flight = true;  ///< a front-end may keep a record of requests in flight
};

/// "net" or "blk".
std::string_view type_name(virtio::DeviceType type);

/// The first thing that keeps the port from taking a guest with these needs, as a sentence that says what to do; empty
/// when there is none. "Here" in it is where the guest is, "there" the port. Errc::invalid_value: the needs, which may
/// be any, make no sense.
Result<std::string> first_obstacle(const control::v1::GuestNeeds& needs, const MigrationTarget& target);

}  // namespace causeway::daemon

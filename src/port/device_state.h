// What a driver has decided of its device and nobody but the device remembers, as a value that moves with the driver to
// another host: filters, receive modes, queue pairs in use, offloads, its part of the configuration space. It belongs
// to no kind of Device, so that what works the queues may differ there. Spec: QEMU docs/interop/vhost-user.rst,
// "Migrating back-end state".
#pragma once

#include "base/result.h"
#include "vdpa/device.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

namespace causeway::port {

/// Value type.
struct DeviceState {
  virtio::DeviceType type = virtio::DeviceType::net;
  virtio::FeatureSet features;                 ///< negotiated; none where nothing was
  std::optional<std::uint16_t> control_queue;  ///< which queue it is, with these features
  /// Commands of the control queue that are in force, in an order in which a Device accepts them after negotiation.
  std::vector<std::vector<std::byte>> commands;
  std::map<std::uint32_t, std::byte> config;  ///< bytes of configuration space that the driver has written, by offset
  bool operator==(const DeviceState&) const = default;
};

/// A head as that of a port's record has it, then the values.
std::vector<std::byte> encode(const DeviceState& state);
/// Errc::peer_violation: truncated, changed, or contradicting itself; Errc::not_supported: a format that this release
/// does not know. The text says which.
Result<DeviceState> decode_device_state(std::span<const std::byte> bytes);

}  // namespace causeway::port

// What a NIC is told to be, and what it therefore offers.
#pragma once

#include "base/result.h"
#include "net/ethernet.h"
#include "virtio/feature.h"
#include "virtio/net.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace causeway::net {

struct NicConfig {
  std::string name;
  MacAddress mac;
  std::uint16_t queue_pairs = 1;     ///< 1 to kMaxQueuePairs
  std::optional<std::uint16_t> mtu;  ///< announced to the driver when set, 68 to 65535
  std::uint32_t largest_ring = 32768;
  std::uint32_t speed = virtio::kNetSpeedUnknown;   ///< Mbit/s that the driver is told, at most 0x7fffffff
  std::uint8_t duplex = virtio::kNetDuplexUnknown;  ///< likewise: one of virtio::kNetDuplex*
};

/// The smallest MTU that may be announced (5.1.4.1).
inline constexpr std::uint16_t kLeastMtu = 68;

/// Errc::invalid_value: no NIC can be so.
Result<void> check(const NicConfig& config);

/// Features a NIC with this configuration offers.
virtio::FeatureSet nic_features(const NicConfig& config);

/// The configuration space without what the driver and the link decide: `mac` and `status` are the caller's to set.
virtio::NetConfig config_space(const NicConfig& config);

/// A reverse ARP request of `mac` about itself (RFC 903), as hypervisors send after a migration: switches learn where
/// it is now. An Ethernet frame of the least length.
std::array<std::byte, 60> announcement(std::span<const std::byte, 6> mac);

}  // namespace causeway::net

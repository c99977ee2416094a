// What a NIC's driver wants to receive, as it says by the control virtqueue. Spec: virtio 1.3 section 5.1.6.5.
#pragma once

#include "net/ethernet.h"
#include "vdpa/device.h"
#include "virtio/feature.h"

#include <bitset>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace causeway::net {

/// Value type: the control thread changes its copy and gives the worker a new one. Until the driver says otherwise it
/// receives everything, as 5.1.6.5.1 wants of a device whose driver does not filter.
class ReceiveFilter {
 public:
  /// Entries of each MAC table; a driver that sends more gets all frames of that kind, which the standard allows.
  static constexpr std::size_t kMaxAddresses = 1024;
  static constexpr std::uint16_t kAllPairs = 0xffff;

  ReceiveFilter() = default;
  explicit ReceiveFilter(const MacAddress& mac) : mac_(mac) {}

  /// `vlan`: the tag's VLAN id, if the frame has one.
  bool accepts(const EthernetHeader& frame, std::optional<std::uint16_t> vlan) const {
    if (vlan && filters_vlan_ && !vlans_[*vlan]) return false;
    if (promiscuous_) return true;
    return accepts_address(frame.destination);
  }
  /// Queue pairs in use, kAllPairs until the driver has said how many.
  std::uint16_t active_pairs() const { return active_pairs_; }
  const MacAddress& mac() const { return mac_; }
  bool announce_acknowledged() const { return announce_acknowledged_; }

  /// Carries out one command: class, command, data. A bad one is answered with kCtrlErr and changes nothing.
  vdpa::ControlReply apply(std::span<const std::byte> command, virtio::FeatureSet negotiated, std::uint16_t max_pairs);

 private:
  bool accepts_address(const MacAddress& destination) const;
  bool set_mode(std::uint8_t command, std::span<const std::byte> data, virtio::FeatureSet negotiated);
  bool set_mac(std::uint8_t command, std::span<const std::byte> data, virtio::FeatureSet negotiated);
  bool set_table(std::span<const std::byte> data);
  bool set_vlan(std::uint8_t command, std::span<const std::byte> data, virtio::FeatureSet negotiated);
  bool set_pairs(std::span<const std::byte> data, std::uint16_t max_pairs);

  MacAddress mac_;
  bool promiscuous_ = true;
  bool all_multicast_ = false;
  bool all_unicast_ = false;
  bool no_multicast_ = false;
  bool no_unicast_ = false;
  bool no_broadcast_ = false;
  std::vector<MacAddress> unicast_;
  std::vector<MacAddress> multicast_;
  bool unicast_overflow_ = false;
  bool multicast_overflow_ = false;
  bool filters_vlan_ = false;
  std::bitset<4096> vlans_;
  std::uint16_t active_pairs_ = kAllPairs;
  bool announce_acknowledged_ = false;
};

}  // namespace causeway::net

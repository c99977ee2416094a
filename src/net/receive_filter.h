// What a NIC's driver wants to receive, as it says by the control virtqueue. Spec: virtio 1.3 sections 5.1.6.5.1 to 3.
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

/// Value type: the control thread changes its copy and gives the worker a new one.
///
/// Invariants: (1) until the driver turns promiscuous mode off it receives everything, also where its commands go to
/// somebody else (a VMM with a control queue of its own); (2) promiscuous mode is above every other filter, VLANs
/// included (5.1.6.5.1.1); (3) below it, VLANs are filtered exactly when CTRL_VLAN was negotiated, at first all of them
/// (5.1.6.5.3); (4) a command that is refused changes nothing.
class ReceiveFilter {
 public:
  /// Entries of each MAC table; a driver that sends more gets all frames of that kind, which the standard allows.
  static constexpr std::size_t kMaxAddresses = 1024;
  static constexpr std::uint16_t kVlans = 4096;

  ReceiveFilter() = default;
  explicit ReceiveFilter(const MacAddress& mac) : mac_(mac) {}

  /// `vlan`: the tag's VLAN id, below 4096, if the frame has one.
  bool accepts(const EthernetHeader& frame, std::optional<std::uint16_t> vlan) const {
    if (promiscuous_) return true;
    if (vlan && filters_vlan_ && !vlans_[*vlan % kVlans]) return false;
    return accepts_address(frame.destination);
  }
  /// The NIC's own address, as the driver set it last.
  const MacAddress& mac() const { return mac_; }

  /// Carries out one command of the classes rx, mac and vlan: class, command, data. A bad one, or one whose feature is
  /// not in `negotiated`, is answered with kCtrlErr.
  vdpa::ControlReply apply(std::span<const std::byte> command, virtio::FeatureSet negotiated);

 private:
  bool accepts_address(const MacAddress& destination) const;
  bool set_mode(std::uint8_t command, std::span<const std::byte> data, virtio::FeatureSet negotiated);
  bool set_mac(std::uint8_t command, std::span<const std::byte> data, virtio::FeatureSet negotiated);
  bool set_table(std::span<const std::byte> data);
  bool set_vlan(std::uint8_t command, std::span<const std::byte> data, virtio::FeatureSet negotiated);
  bool carry_out(std::uint8_t type, std::uint8_t command, std::span<const std::byte> data,
                 virtio::FeatureSet negotiated);

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
  std::bitset<kVlans> vlans_;
};

}  // namespace causeway::net

#include "net/receive_filter.h"

#include "net/little_endian.h"
#include "virtio/net.h"

#include <algorithm>
#include <cstring>

namespace causeway::net {
namespace {

using virtio::NetCtrlClass;
using virtio::NetFeature;

MacAddress mac_at(std::span<const std::byte> data) {
  MacAddress address;
  std::memcpy(address.bytes.data(), data.data(), address.bytes.size());
  return address;
}

/// Takes one table (a count and its addresses) off the front of `data`; nothing when it is cut short.
std::optional<std::span<const std::byte>> take_table(std::span<const std::byte>& data) {
  if (data.size() < 4) return std::nullopt;
  const std::uint64_t bytes = std::uint64_t{le32(data)} * 6;
  if (bytes > data.size() - 4) return std::nullopt;
  const auto table = data.subspan(4, bytes);
  data = data.subspan(4 + bytes);
  return table;
}

/// What the tables are sorted by. No pointer to the member, at which g++ 12 sees bounds overstepped (GCC bug 105329).
constexpr auto kNumberOf = [](const MacAddress& address) { return address.number(); };

/// Fills `addresses` from a table; true when there were too many, and all frames of the kind must be let through.
bool fill(std::vector<MacAddress>& addresses, std::span<const std::byte> table) {
  addresses.clear();
  if (table.size() / 6 > ReceiveFilter::kMaxAddresses) return true;
  for (; !table.empty(); table = table.subspan(6)) addresses.push_back(mac_at(table));
  std::ranges::sort(addresses, {}, kNumberOf);
  return false;
}

bool contains(const std::vector<MacAddress>& addresses, const MacAddress& address) {
  return std::ranges::binary_search(addresses, address.number(), {}, kNumberOf);
}

/// What a command that was carried out means for a Port's log. A setting is a topic; each VLAN is one of its own, for
/// which adding and deleting are two values.
vdpa::ControlReply reply_for(std::uint8_t type, std::uint8_t command, std::span<const std::byte> data) {
  const std::uint64_t topic = std::uint64_t{type} << 32;
  switch (static_cast<NetCtrlClass>(type)) {
    case NetCtrlClass::vlan:
      return {.ack = virtio::kCtrlOk, .topic = topic | le16(data), .is_default = command == 1};
    default:
      return {.ack = virtio::kCtrlOk, .topic = topic | std::uint64_t{command} << 16};
  }
}

}  // namespace

bool ReceiveFilter::accepts_address(const MacAddress& destination) const {
  if (destination.is_broadcast()) return !no_broadcast_;
  if (destination.is_multicast()) {
    if (no_multicast_) return false;
    return all_multicast_ || multicast_overflow_ || contains(multicast_, destination);
  }
  if (no_unicast_) return false;
  return destination == mac_ || all_unicast_ || unicast_overflow_ || contains(unicast_, destination);
}

vdpa::ControlReply ReceiveFilter::apply(std::span<const std::byte> command, virtio::FeatureSet negotiated) {
  if (command.size() < 2) return {.ack = virtio::kCtrlErr};
  const auto type = std::to_integer<std::uint8_t>(command[0]);
  const auto number = std::to_integer<std::uint8_t>(command[1]);
  const auto data = command.subspan(2);
  if (!carry_out(type, number, data, negotiated)) return {.ack = virtio::kCtrlErr};
  // No later than the command that ends promiscuous mode, so as soon as it matters.
  filters_vlan_ = negotiated.has(NetFeature::ctrl_vlan);
  return reply_for(type, number, data);
}

bool ReceiveFilter::carry_out(std::uint8_t type, std::uint8_t command, std::span<const std::byte> data,
                              virtio::FeatureSet negotiated) {
  switch (static_cast<NetCtrlClass>(type)) {
    case NetCtrlClass::rx:
      return set_mode(command, data, negotiated);
    case NetCtrlClass::mac:
      return set_mac(command, data, negotiated);
    case NetCtrlClass::vlan:
      return set_vlan(command, data, negotiated);
    default:
      return false;
  }
}

bool ReceiveFilter::set_mode(std::uint8_t command, std::span<const std::byte> data, virtio::FeatureSet negotiated) {
  if (data.size() != 1 || !negotiated.has(NetFeature::ctrl_rx)) return false;
  const bool on = data[0] != std::byte{0};
  const auto mode = static_cast<virtio::NetCtrlRx>(command);
  if (mode >= virtio::NetCtrlRx::alluni && !negotiated.has(NetFeature::ctrl_rx_extra)) return false;
  switch (mode) {
    case virtio::NetCtrlRx::promisc:
      promiscuous_ = on;
      return true;
    case virtio::NetCtrlRx::allmulti:
      all_multicast_ = on;
      return true;
    case virtio::NetCtrlRx::alluni:
      all_unicast_ = on;
      return true;
    case virtio::NetCtrlRx::nomulti:
      no_multicast_ = on;
      return true;
    case virtio::NetCtrlRx::nouni:
      no_unicast_ = on;
      return true;
    case virtio::NetCtrlRx::nobcast:
      no_broadcast_ = on;
      return true;
  }
  return false;
}

bool ReceiveFilter::set_mac(std::uint8_t command, std::span<const std::byte> data, virtio::FeatureSet negotiated) {
  switch (static_cast<virtio::NetCtrlMac>(command)) {
    case virtio::NetCtrlMac::table_set:
      return negotiated.has(NetFeature::ctrl_rx) && set_table(data);
    case virtio::NetCtrlMac::addr_set: {
      if (data.size() != 6 || !negotiated.has(NetFeature::ctrl_mac_addr)) return false;
      const MacAddress address = mac_at(data);
      if (address.is_multicast() || address.is_zero()) return false;
      mac_ = address;
      return true;
    }
  }
  return false;
}

bool ReceiveFilter::set_table(std::span<const std::byte> data) {
  const auto unicast = take_table(data);
  const auto multicast = unicast ? take_table(data) : std::nullopt;
  if (!multicast || !data.empty()) return false;
  unicast_overflow_ = fill(unicast_, *unicast);
  multicast_overflow_ = fill(multicast_, *multicast);
  return true;
}

bool ReceiveFilter::set_vlan(std::uint8_t command, std::span<const std::byte> data, virtio::FeatureSet negotiated) {
  if (data.size() != 2 || command > 1 || !negotiated.has(NetFeature::ctrl_vlan)) return false;
  const std::uint16_t id = le16(data);
  if (id >= kVlans) return false;
  vlans_[id] = static_cast<virtio::NetCtrlVlan>(command) == virtio::NetCtrlVlan::add;
  return true;
}

}  // namespace causeway::net

#include "virtio/feature.h"

#include "virtio/blk.h"
#include "virtio/net.h"

#include <fmt/format.h>

#include <array>

namespace causeway::virtio {
namespace {

struct Named {
  unsigned bit;
  std::string_view name;
};

template <class Bit>
constexpr Named named(Bit bit, std::string_view name) {
  return {static_cast<unsigned>(bit), name};
}

constexpr std::array kRingNames = {
    named(Feature::notify_on_empty, "notify_on_empty"),
    named(Feature::any_layout, "any_layout"),
    named(Feature::indirect_desc, "indirect_desc"),
    named(Feature::event_idx, "event_idx"),
    named(Feature::version_1, "version_1"),
    named(Feature::access_platform, "access_platform"),
    named(Feature::ring_packed, "ring_packed"),
    named(Feature::in_order, "in_order"),
    named(Feature::order_platform, "order_platform"),
    named(Feature::sr_iov, "sr_iov"),
    named(Feature::notification_data, "notification_data"),
    named(Feature::ring_reset, "ring_reset"),
};

constexpr std::array kNetNames = {
    named(NetFeature::csum, "csum"),
    named(NetFeature::guest_csum, "guest_csum"),
    named(NetFeature::ctrl_guest_offloads, "ctrl_guest_offloads"),
    named(NetFeature::mtu, "mtu"),
    named(NetFeature::mac, "mac"),
    named(NetFeature::guest_tso4, "guest_tso4"),
    named(NetFeature::guest_tso6, "guest_tso6"),
    named(NetFeature::guest_ecn, "guest_ecn"),
    named(NetFeature::guest_ufo, "guest_ufo"),
    named(NetFeature::host_tso4, "host_tso4"),
    named(NetFeature::host_tso6, "host_tso6"),
    named(NetFeature::host_ecn, "host_ecn"),
    named(NetFeature::host_ufo, "host_ufo"),
    named(NetFeature::mrg_rxbuf, "mrg_rxbuf"),
    named(NetFeature::status, "status"),
    named(NetFeature::ctrl_vq, "ctrl_vq"),
    named(NetFeature::ctrl_rx, "ctrl_rx"),
    named(NetFeature::ctrl_vlan, "ctrl_vlan"),
    named(NetFeature::ctrl_rx_extra, "ctrl_rx_extra"),
    named(NetFeature::guest_announce, "guest_announce"),
    named(NetFeature::mq, "mq"),
    named(NetFeature::ctrl_mac_addr, "ctrl_mac_addr"),
    named(NetFeature::device_stats, "device_stats"),
    named(NetFeature::vq_notf_coal, "vq_notf_coal"),
    named(NetFeature::notf_coal, "notf_coal"),
    named(NetFeature::guest_uso4, "guest_uso4"),
    named(NetFeature::guest_uso6, "guest_uso6"),
    named(NetFeature::host_uso, "host_uso"),
    named(NetFeature::hash_report, "hash_report"),
    named(NetFeature::guest_hdrlen, "guest_hdrlen"),
    named(NetFeature::rss, "rss"),
    named(NetFeature::rsc_ext, "rsc_ext"),
    named(NetFeature::standby, "standby"),
    named(NetFeature::speed_duplex, "speed_duplex"),
};

constexpr std::array kBlkNames = {
    named(BlkFeature::size_max, "size_max"),
    named(BlkFeature::seg_max, "seg_max"),
    named(BlkFeature::geometry, "geometry"),
    named(BlkFeature::ro, "ro"),
    named(BlkFeature::blk_size, "blk_size"),
    named(BlkFeature::flush, "flush"),
    named(BlkFeature::topology, "topology"),
    named(BlkFeature::config_wce, "config_wce"),
    named(BlkFeature::mq, "mq"),
    named(BlkFeature::discard, "discard"),
    named(BlkFeature::write_zeroes, "write_zeroes"),
    named(BlkFeature::lifetime, "lifetime"),
    named(BlkFeature::secure_erase, "secure_erase"),
    named(BlkFeature::zoned, "zoned"),
};

template <class Visit>
void each_name(DeviceType type, Visit visit) {
  for (const Named& entry : kRingNames) visit(entry);
  if (type == DeviceType::net) {
    for (const Named& entry : kNetNames) visit(entry);
  } else if (type == DeviceType::block) {
    for (const Named& entry : kBlkNames) visit(entry);
  }
}

}  // namespace

std::optional<unsigned> feature_by_name(DeviceType type, std::string_view name) {
  std::optional<unsigned> found;
  each_name(type, [&](const Named& entry) {
    if (entry.name == name) found = entry.bit;
  });
  return found;
}

std::string text(DeviceType type, FeatureSet features) {
  std::array<std::string_view, 64> names{};
  each_name(type, [&](const Named& entry) { names[entry.bit] = entry.name; });
  std::string list;
  for (unsigned bit = 0; bit < names.size(); ++bit) {
    if (!features.has(bit)) continue;
    if (!list.empty()) list += ' ';
    list += names[bit].empty() ? fmt::format("bit{}", bit) : std::string(names[bit]);
  }
  return list;
}

}  // namespace causeway::virtio

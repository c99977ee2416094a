#include "net/nic_config.h"

#include "net/driver_settings.h"
#include "net/link.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::net {

using virtio::Feature;
using virtio::FeatureSet;
using virtio::NetFeature;

Result<void> check(const NicConfig& config) {
  const auto refuse = [&config](const std::string& why) {
    return fail(Errc::invalid_value, fmt::format("NIC {}: {}", config.name, why));
  };
  if (config.queue_pairs == 0 || config.queue_pairs > kMaxQueuePairs)
    return refuse(fmt::format("{} queue pairs; expected 1 to {}", config.queue_pairs, kMaxQueuePairs));
  if (config.mac.is_multicast() || config.mac.is_zero())
    return refuse(fmt::format("{} is no unicast MAC address", config.mac.text()));
  if (config.mtu && *config.mtu < kLeastMtu)
    return refuse(fmt::format("an MTU of {} is below {}", *config.mtu, kLeastMtu));
  if (config.speed > 0x7fffffff && config.speed != virtio::kNetSpeedUnknown)
    return refuse(fmt::format("a speed of {} Mbit/s is above {}", config.speed, 0x7fffffff));
  if (config.duplex > virtio::kNetDuplexFull && config.duplex != virtio::kNetDuplexUnknown)
    return refuse(fmt::format("duplex {} is neither half (0) nor full (1)", config.duplex));
  return {};
}

FeatureSet nic_features(const NicConfig& config) {
  const FeatureSet offloads{NetFeature::csum,       NetFeature::host_tso4,  NetFeature::host_tso6,
                            NetFeature::host_ecn,   NetFeature::host_uso,   NetFeature::guest_csum,
                            NetFeature::guest_tso4, NetFeature::guest_tso6, NetFeature::guest_ecn,
                            NetFeature::guest_uso4, NetFeature::guest_uso6};
  const FeatureSet control{
      NetFeature::ctrl_vq,        NetFeature::ctrl_rx,       NetFeature::ctrl_vlan,           NetFeature::ctrl_rx_extra,
      NetFeature::guest_announce, NetFeature::ctrl_mac_addr, NetFeature::ctrl_guest_offloads, NetFeature::device_stats};
  const FeatureSet other{NetFeature::mac, NetFeature::mrg_rxbuf, NetFeature::status, NetFeature::speed_duplex,
                         NetFeature::hash_report};
  const FeatureSet ring{Feature::version_1,         Feature::any_layout,      Feature::indirect_desc,
                        Feature::event_idx,         Feature::access_platform, Feature::order_platform,
                        Feature::notification_data, Feature::ring_reset,      Feature::ring_packed,
                        Feature::in_order};
  FeatureSet features = offloads | control | other | ring;
  if (config.queue_pairs > 1) features = features | FeatureSet{NetFeature::mq, NetFeature::rss};
  if (config.mtu) features = features.with(NetFeature::mtu);
  return features;
}

virtio::NetConfig config_space(const NicConfig& config) {
  virtio::NetConfig space{};
  std::ranges::copy(config.mac.bytes, std::begin(space.mac));
  space.max_virtqueue_pairs = config.queue_pairs;
  space.mtu = config.mtu.value_or(0);
  space.speed = config.speed;
  space.duplex = config.duplex;
  space.rss_max_key_size = Toeplitz::kMaxKey;
  space.rss_max_indirection_table_length = RssSteering::kMaxTable;
  space.supported_hash_types = RssHash::kSupportedTypes;
  return space;
}

std::array<std::byte, 60> announcement(std::span<const std::byte, 6> mac) {
  std::array<std::byte, 60> frame{};
  const auto put = [&frame](std::size_t at, auto... values) { ((frame[at++] = static_cast<std::byte>(values)), ...); };
  std::ranges::fill_n(frame.begin(), 6, std::byte{0xff});
  std::ranges::copy(mac, frame.begin() + 6);
  put(12, kEtherTypeRarp >> 8, kEtherTypeRarp & 0xff, 0, 1, 8, 0, 6, 4, 0, 3);
  std::ranges::copy(mac, frame.begin() + 22);
  std::ranges::copy(mac, frame.begin() + 32);
  return frame;
}

}  // namespace causeway::net

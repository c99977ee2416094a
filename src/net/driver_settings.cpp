#include "net/driver_settings.h"

#include "net/little_endian.h"
#include "virtio/net.h"

#include <bit>

namespace causeway::net {
namespace {

using virtio::FeatureSet;
using virtio::NetCtrlClass;
using virtio::NetFeature;
using Bytes = std::span<const std::byte>;

constexpr vdpa::ControlReply kRefused{.ack = virtio::kCtrlErr};

constexpr std::uint64_t topic_of(NetCtrlClass type, std::uint8_t command = 0) {
  return std::uint64_t{static_cast<std::uint8_t>(type)} << 32 | std::uint64_t{command} << 16;
}

/// The end of RSS_CONFIG and HASH_CONFIG: a key behind its length, and nothing more. Nothing when it is not so.
std::optional<Bytes> key_in(Bytes data) {
  if (data.empty()) return std::nullopt;
  const auto length = std::to_integer<std::size_t>(data[0]);
  if (length > Toeplitz::kMaxKey || data.size() != 1 + length) return std::nullopt;
  return data.subspan(1);
}

/// Types and key as they may go together.
std::optional<RssHash> hash_of(std::uint32_t types, std::optional<Bytes> key) {
  if (!key || (types & ~RssHash::kSupportedTypes) != 0) return std::nullopt;
  if (types != 0 && key->empty()) return std::nullopt;
  return RssHash(types, *key);
}

/// What lies behind hash_types in RSS_CONFIG, up to max_tx_vq. Takes it off the front of `data`.
std::optional<RssSteering> take_steering(Bytes& data, std::uint16_t pairs) {
  constexpr std::size_t kFixed = 4;
  if (data.size() < kFixed) return std::nullopt;
  RssSteering steering{.unclassified = le16(data, 2), .mask = le16(data)};
  const std::size_t length = std::size_t{steering.mask} + 1;
  if (length > RssSteering::kMaxTable || !std::has_single_bit(length)) return std::nullopt;
  if (data.size() < kFixed + 2 * length || steering.unclassified >= pairs) return std::nullopt;
  for (std::size_t i = 0; i < length; ++i) {
    // An entry is the receive queue's index without its lowest bit: the number of its pair.
    steering.table[i] = le16(data, kFixed + 2 * i);
    if (steering.table[i] >= pairs) return std::nullopt;
  }
  data = data.subspan(kFixed + 2 * length);
  return steering;
}

}  // namespace

vdpa::ControlReply DriverSettings::apply(Bytes command) {
  if (command.size() < 2) return kRefused;
  const auto type = static_cast<NetCtrlClass>(command[0]);
  const auto number = std::to_integer<std::uint8_t>(command[1]);
  const auto data = command.subspan(2);
  switch (type) {
    case NetCtrlClass::rx:
    case NetCtrlClass::mac:
    case NetCtrlClass::vlan:
      return filter_.apply(command, negotiated_);
    case NetCtrlClass::announce:
      if (!negotiated_.has(NetFeature::guest_announce) || number != 0 || !data.empty()) return kRefused;
      // An event, not a setting: there is nothing to tell another Device.
      return {.ack = virtio::kCtrlOk, .topic = topic_of(type), .is_default = true};
    case NetCtrlClass::mq:
      return spread(number, data);
    case NetCtrlClass::guest_offloads:
      return set_offloads(number, data);
    case NetCtrlClass::stats:
      break;  // not a setting: see statistics.h
  }
  return kRefused;
}

vdpa::ControlReply DriverSettings::spread(std::uint8_t command, Bytes data) {
  bool done = false;
  auto topic = virtio::NetCtrlMq::vq_pairs_set;
  switch (static_cast<virtio::NetCtrlMq>(command)) {
    case virtio::NetCtrlMq::vq_pairs_set:
      done = set_pairs(data);
      break;
    case virtio::NetCtrlMq::rss_config:
      done = set_rss(data);
      break;
    case virtio::NetCtrlMq::hash_config:
      done = set_hash(data);
      topic = virtio::NetCtrlMq::hash_config;
      break;
  }
  if (!done) return kRefused;
  return {.ack = virtio::kCtrlOk, .topic = topic_of(NetCtrlClass::mq, static_cast<std::uint8_t>(topic))};
}

bool DriverSettings::set_pairs(Bytes data) {
  if (data.size() != 2 || !negotiated_.has(NetFeature::mq)) return false;
  const std::uint16_t pairs = le16(data);
  if (pairs == 0 || pairs > pairs_) return false;
  active_pairs_ = pairs;
  steering_.reset();
  // What RSS_CONFIG configured ends with it, the hash too; what HASH_CONFIG did is a topic of its own.
  if (negotiated_.has(NetFeature::rss)) hash_ = RssHash();
  return true;
}

bool DriverSettings::set_rss(Bytes data) {
  if (data.size() < 4 || !negotiated_.has(NetFeature::rss)) return false;
  const std::uint32_t types = le32(data);
  data = data.subspan(4);
  const auto steering = take_steering(data, pairs_);
  if (!steering || data.size() < 2) return false;
  const std::uint16_t transmitters = le16(data);
  if (transmitters == 0 || transmitters > pairs_) return false;
  const auto hash = hash_of(types, key_in(data.subspan(2)));
  if (!hash) return false;
  hash_ = *hash;
  steering_ = *steering;
  // The table says which pairs receive; transmit queues are used by whoever fills them.
  active_pairs_ = kAllPairs;
  return true;
}

bool DriverSettings::set_hash(Bytes data) {
  // Behind the types lie four reserved fields, which older drivers do not clear.
  constexpr std::size_t kKey = 12;
  if (!negotiated_.has(NetFeature::hash_report) || negotiated_.has(NetFeature::rss) || data.size() < kKey) return false;
  const auto hash = hash_of(le32(data), key_in(data.subspan(kKey)));
  if (!hash) return false;
  hash_ = *hash;
  return true;
}

vdpa::ControlReply DriverSettings::set_offloads(std::uint8_t command, Bytes data) {
  if (!negotiated_.has(NetFeature::ctrl_guest_offloads) || command != 0 || data.size() != 8) return kRefused;
  const FeatureSet wanted(le64(data));
  const FeatureSet possible = negotiated_ & kGuestOffloads;
  if (!wanted.is_subset_of(possible)) return kRefused;
  guest_offloads_ = wanted;
  return {.ack = virtio::kCtrlOk, .topic = topic_of(NetCtrlClass::guest_offloads), .is_default = wanted == possible};
}

}  // namespace causeway::net

// Everything that a NIC's driver decides by the control virtqueue. Spec: virtio 1.3 section 5.1.6.5.
#pragma once

#include "net/receive_filter.h"
#include "net/rss_hash.h"
#include "vdpa/device.h"
#include "virtio/feature.h"

#include <array>
#include <cstdint>
#include <optional>
#include <span>

namespace causeway::net {

/// The GUEST_* offloads, which CTRL_GUEST_OFFLOADS turns on and off (5.1.6.5.8.1).
inline constexpr virtio::FeatureSet kGuestOffloads{virtio::NetFeature::guest_csum, virtio::NetFeature::guest_tso4,
                                                   virtio::NetFeature::guest_tso6, virtio::NetFeature::guest_ecn,
                                                   virtio::NetFeature::guest_ufo,  virtio::NetFeature::guest_uso4,
                                                   virtio::NetFeature::guest_uso6};

/// Which queue pair receives a packet of which hash (5.1.6.5.7). Value type.
struct RssSteering {
  static constexpr std::uint16_t kMaxTable = 128;

  std::uint16_t unclassified = 0;  ///< pair of packets without a hash
  std::uint16_t mask = 0;          ///< the table's length less one; the length is a power of two
  std::array<std::uint16_t, kMaxTable> table{};

  std::uint16_t pair_for(const HashResult& hash) const {
    return hash.report == virtio::HashReport::none ? unclassified : table[hash.value & mask];
  }
  bool operator==(const RssSteering&) const = default;
};

/// Value type: the control thread changes its copy and gives the worker a new one.
///
/// Invariants: (1) a command that is refused changes nothing; (2) the settings depend only on the last command of each
/// topic, whatever the order of the topics, so that a Port can replay them; (3) the last of VQ_PAIRS_SET and RSS_CONFIG
/// decides how packets are spread, so they share a topic; HASH_CONFIG is for drivers without RSS, and refused to
/// others.
class DriverSettings {
 public:
  static constexpr std::uint16_t kAllPairs = 0xffff;

  /// Those of a device that nobody drives.
  DriverSettings() = default;
  /// Those after negotiation. `mac`: the device's own address. `pairs`: queue pairs of the device.
  DriverSettings(const MacAddress& mac, virtio::FeatureSet negotiated, std::uint16_t pairs)
      : negotiated_(negotiated), pairs_(pairs), filter_(mac) {}

  /// Carries out one command: class, command, data, as the driver sent them. A bad one, or one whose feature was not
  /// negotiated, is answered with kCtrlErr.
  vdpa::ControlReply apply(std::span<const std::byte> command);

  const ReceiveFilter& filter() const { return filter_; }
  /// Queue pairs in use, kAllPairs until the driver has said how many: where the driver's commands go to a VMM, the
  /// enabled queues are those in use.
  std::uint16_t active_pairs() const { return active_pairs_; }
  /// For HASH_REPORT and for `steering`; hashes nothing until the driver has configured it.
  const RssHash& hash() const { return hash_; }
  /// Nothing: the device spreads packets as it likes, over the active pairs.
  const std::optional<RssSteering>& steering() const { return steering_; }
  /// The part of kGuestOffloads that is on, once the driver has set it; until then it is what was negotiated.
  const std::optional<virtio::FeatureSet>& guest_offloads() const { return guest_offloads_; }
  /// `features` of a receive queue with the offloads that the driver wants now.
  virtio::FeatureSet effective(virtio::FeatureSet features) const {
    return guest_offloads_ ? features.minus(kGuestOffloads) | *guest_offloads_ : features;
  }

 private:
  vdpa::ControlReply spread(std::uint8_t command, std::span<const std::byte> data);
  bool set_pairs(std::span<const std::byte> data);
  bool set_rss(std::span<const std::byte> data);
  bool set_hash(std::span<const std::byte> data);
  vdpa::ControlReply set_offloads(std::uint8_t command, std::span<const std::byte> data);

  virtio::FeatureSet negotiated_;
  std::uint16_t pairs_ = 1;
  ReceiveFilter filter_;
  std::uint16_t active_pairs_ = kAllPairs;
  RssHash hash_;
  std::optional<RssSteering> steering_;
  std::optional<virtio::FeatureSet> guest_offloads_;
};

}  // namespace causeway::net

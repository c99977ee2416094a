#include "vhost_user/frontend.h"

#include "base/log.h"
#include "virtio/net.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

namespace causeway::vhost_user {
namespace {

using virtio::DeviceType, virtio::Feature, virtio::FeatureSet, virtio::NetFeature;

/// VHOST_F_LOG_ALL, which is no feature of a device.
constexpr unsigned kLogAllBit = 26;

/// What a back-end may offer and we cannot carry: an IOMMU, notifications with data, a reset of one queue, and what
/// needs commands of the control queue that the protocol has no message for.
FeatureSet without_what_cannot_be_carried(FeatureSet features) {
  const FeatureSet transport{Feature::access_platform, Feature::notification_data, Feature::ring_reset,
                             Feature::sr_iov};
  return features.minus(transport).without(kLogAllBit);
}

/// What a front-end does for its driver by itself.
constexpr FeatureSet kOwnNetFeatures{NetFeature::status,        NetFeature::ctrl_vq,       NetFeature::ctrl_rx,
                                     NetFeature::ctrl_vlan,     NetFeature::ctrl_rx_extra, NetFeature::ctrl_mac_addr,
                                     NetFeature::guest_announce};

/// Sizes of the configuration space by how much of it a device knows, the largest first.
std::span<const std::uint32_t> config_sizes(DeviceType type) {
  static constexpr std::array<std::uint32_t, 4> kNet{12, 10, 8, 6};
  static constexpr std::array<std::uint32_t, 3> kBlock{96, 60, 36};
  return type == DeviceType::net ? std::span<const std::uint32_t>(kNet) : std::span<const std::uint32_t>(kBlock);
}

std::uint16_t queues_per_unit(DeviceType type) {
  return type == DeviceType::net ? 2 : 1;
}

}  // namespace

Result<std::unique_ptr<Frontend>> Frontend::make(Loop& loop, FrontendConfig config) {
  std::unique_ptr<Frontend> frontend(new Frontend(loop, std::move(config)));
  const auto begin = [&self = *frontend]() -> Result<void> {
    CW_TRY(self.connector_, Connector::make(self.loop_, self.config_.path, self.config_.role));
    CW_TRY(auto socket, self.connector_->wait(self.config_.wait));
    if (!self.config_.reconnect) self.connector_.reset();
    return self.start(std::move(socket));
  };
  if (auto begun = begin(); !begun) {
    const FrontendConfig& wanted = frontend->config_;
    return fail(
        std::move(begun).error().context(fmt::format("device {}: socket '{}'", wanted.name, wanted.path.native())));
  }
  return frontend;
}

Result<std::unique_ptr<Frontend>> Frontend::make_on(Loop& loop, FrontendConfig config, UnixSocket socket) {
  config.reconnect = false;
  std::unique_ptr<Frontend> frontend(new Frontend(loop, std::move(config)));
  if (auto begun = frontend->start(std::move(socket)); !begun) {
    return fail(std::move(begun).error().context("device " + frontend->config_.name));
  }
  return frontend;
}

Result<void> Frontend::start(UnixSocket socket) {
  CW_TRY(remote_, negotiate(std::move(socket)));
  describe();
  CW_CHECK(learn_config());
  log::info("device {}: back-end of {} queues, features {}; protocol features {}", info_.name, info_.queues,
            virtio::text(info_.type, info_.features), text(remote_->protocol_features()));
  return {};
}

Result<std::unique_ptr<RemoteBackend>> Frontend::negotiate(UnixSocket socket) {
  return RemoteBackend::negotiate(loop_, std::move(socket),
                                  {.name = "device " + config_.name,
                                   .patience = config_.patience,
                                   .configured = configured_features(config_.inband_notifications, config_.vfio_groups),
                                   .in_flight = config_.type != DeviceType::net},
                                  *this);
}

ProtocolFeatures Frontend::protocol_features() const {
  return is_connected() ? remote_->protocol_features() : ProtocolFeatures();
}

FeatureSet Frontend::offered_by(const RemoteBackend& remote) const {
  FeatureSet features = without_what_cannot_be_carried(remote.features());
  if (config_.type != DeviceType::net) return features;
  // Set through the control queue, which does not reach the back-end.
  features = features.minus(
      {NetFeature::ctrl_guest_offloads, NetFeature::rss, NetFeature::hash_report, NetFeature::device_stats});
  features = features | kOwnNetFeatures;
  if (remote.has(ProtocolFeature::config)) return features;
  features = config_.mac ? features.with(NetFeature::mac) : features.without(NetFeature::mac);
  return config_.mtu ? features.with(NetFeature::mtu) : features.without(NetFeature::mtu);
}

void Frontend::describe() {
  const std::uint16_t unit = queues_per_unit(config_.type);
  const std::uint64_t there = std::min<std::uint64_t>(remote_->queue_units(), kMaxQueues) * unit;
  const auto queues = static_cast<std::uint16_t>(std::min<std::uint64_t>(config_.queues, there) / unit * unit);
  FeatureSet features = offered_by(*remote_);
  if (config_.type == DeviceType::net && queues <= unit) features = features.without(NetFeature::mq);
  info_ = {.name = config_.name,
           .type = config_.type,
           .features = features,
           .queues = queues,
           .queues_per_unit = unit,
           .largest_ring = config_.largest_ring,
           .config_size = 0,
           .can = {}};
  active_queues_ = queues;
}

// --- Configuration space --------------------------------------------------------------------------------------------

bool Frontend::keeps_own_config() const {
  return is_connected() && !remote_->has(ProtocolFeature::config);
}

Result<void> Frontend::learn_config() {
  if (info_.queues == 0) return fail(Errc::not_supported, "the back-end has no queue");
  if (keeps_own_config()) {
    if (config_.type != DeviceType::net) {
      return fail(Errc::not_supported, "the back-end has no configuration space (protocol feature CONFIG)");
    }
    config_space_ = own_config();
  } else {
    Result<void> read = fail(Errc::not_supported, "no configuration space");
    for (const std::uint32_t size : config_sizes(config_.type)) {
      config_space_.assign(size, std::byte{0});
      read = remote_->read_config(0, config_space_);
      if (read || !is_connected()) break;
    }
    CW_CHECK(read);
  }
  info_.config_size = static_cast<std::uint32_t>(config_space_.size());
  return {};
}

std::vector<std::byte> Frontend::own_config() const {
  virtio::NetConfig net{};
  if (config_.mac) std::ranges::copy(*config_.mac, net.mac);
  net.status = virtio::kNetStatusLinkUp;
  net.max_virtqueue_pairs = static_cast<std::uint16_t>(info_.queues / info_.queues_per_unit);
  net.mtu = config_.mtu.value_or(0);
  const auto bytes = std::as_bytes(std::span(&net, 1));
  return {bytes.begin(), bytes.end()};
}

Result<void> Frontend::check_range(std::uint32_t offset, std::size_t size) const {
  if (offset <= info_.config_size && size <= info_.config_size - offset) return {};
  return fail(Errc::peer_violation, fmt::format("configuration bytes {} to {} of device {}, which has {}", offset,
                                                offset + size, info_.name, info_.config_size));
}

Result<void> Frontend::read_config(std::uint32_t offset, std::span<std::byte> to) const {
  CW_CHECK(check_range(offset, to.size()));
  if (is_connected() && remote_->has(ProtocolFeature::config)) {
    auto read = remote_->read_config(offset, to);
    if (read || is_connected() || !config_.reconnect) return read;
  }
  std::ranges::copy_n(config_space_.begin() + offset, static_cast<std::ptrdiff_t>(to.size()), to.begin());
  return {};
}

Result<void> Frontend::write_config(std::uint32_t offset, std::span<const std::byte> from) {
  CW_CHECK(check_range(offset, from.size()));
  if (!is_connected()) return {};
  if (keeps_own_config()) return fail(Errc::not_supported, "the configuration space is read-only");
  return with_remote([&](RemoteBackend& remote) { return remote.write_config(offset, from); });
}

// --- Features and status --------------------------------------------------------------------------------------------

Failure Frontend::gone() const {
  return fail(Errc::gone, fmt::format("device {}: its back-end has left", info_.name));
}

Result<void> Frontend::set_features(FeatureSet features) {
  if (const auto unknown = features.minus(info_.features); unknown.bits() != 0) {
    return fail(Errc::not_supported,
                fmt::format("device {} does not offer {}", info_.name, virtio::text(info_.type, unknown)));
  }
  if (!is_connected() && !config_.reconnect) return gone();
  CW_CHECK(with_remote([&](RemoteBackend& remote) { return remote.set_features(features & remote.features()); }));
  features_ = features;
  return {};
}

Result<void> Frontend::set_status(vdpa::Status status) {
  if (status != vdpa::Status::reset) {
    CW_CHECK(with_remote([&](RemoteBackend& remote) { return remote.set_status(status); }));
    is_driver_ok_told_ = is_driver_ok_told_ || vdpa::has(status, vdpa::Status::driver_ok);
    status_ = status;
    return {};
  }
  while (!queues_.empty()) {
    const QueueIndex queue = queues_.begin()->first;
    if (auto stopped = stop_queue(queue, vdpa::StopMode::drain); !stopped)
      log::warn("device {}: {}", info_.name, stopped.error().text());
    queues_.erase(queue);
  }
  forget_record();
  features_.reset();
  mtu_.reset();
  status_ = vdpa::Status::reset;
  is_driver_ok_told_ = false;
  active_queues_ = info_.queues;
  return with_remote([&](RemoteBackend& remote) { return remote.reset(); });
}

Result<void> Frontend::announce(std::span<const std::byte, 6> mac) {
  return with_remote([&](RemoteBackend& remote) { return remote.announce(mac); });
}

Result<void> Frontend::set_mtu(std::uint16_t mtu) {
  CW_CHECK(with_remote([&](RemoteBackend& remote) { return remote.set_mtu(mtu); }));
  mtu_ = mtu;
  return {};
}

}  // namespace causeway::vhost_user

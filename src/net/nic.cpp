#include "net/nic.h"

#include "base/log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace causeway::net {
namespace {

using vdpa::QueueIndex;
using virtio::FeatureSet;
using virtio::NetFeature;

/// Largest MAC-level payload an Ethernet MTU field can name.
constexpr std::uint16_t kLeastMtu = 68;

constexpr bool transmits(QueueIndex queue) {
  return number(queue) % 2 == 1;
}
constexpr std::uint16_t pair_of(QueueIndex queue) {
  return static_cast<std::uint16_t>(number(queue) / 2);
}

}  // namespace

FeatureSet nic_features(const NicConfig& config) {
  FeatureSet features{
      NetFeature::csum,          NetFeature::guest_csum, NetFeature::mac,           NetFeature::guest_tso4,
      NetFeature::guest_tso6,    NetFeature::guest_ecn,  NetFeature::host_tso4,     NetFeature::host_tso6,
      NetFeature::host_ecn,      NetFeature::mrg_rxbuf,  NetFeature::status,        NetFeature::ctrl_vq,
      NetFeature::ctrl_rx,       NetFeature::ctrl_vlan,  NetFeature::ctrl_rx_extra, NetFeature::guest_announce,
      NetFeature::ctrl_mac_addr, NetFeature::guest_uso4, NetFeature::guest_uso6,    NetFeature::host_uso};
  features = features | FeatureSet{virtio::Feature::version_1, virtio::Feature::any_layout,
                                   virtio::Feature::indirect_desc, virtio::Feature::event_idx,     virtio::Feature::ring_packed,
                                   virtio::Feature::in_order};
  if (config.queue_pairs > 1) features = features.with(NetFeature::mq);
  if (config.mtu) features = features.with(NetFeature::mtu);
  return features;
}

Result<std::unique_ptr<Nic>> Nic::make(Loop& loop, NicConfig config, std::shared_ptr<Link> link) {
  if (config.queue_pairs == 0 || config.queue_pairs > kMaxQueuePairs) {
    return fail(Errc::invalid_value, fmt::format("NIC {}: {} queue pairs; expected 1 to {}", config.name,
                                                 config.queue_pairs, kMaxQueuePairs));
  }
  if (config.mac.is_multicast() || config.mac.is_zero()) {
    return fail(Errc::invalid_value,
                fmt::format("NIC {}: {} is no unicast MAC address", config.name, config.mac.text()));
  }
  if (config.mtu && *config.mtu < kLeastMtu) {
    return fail(Errc::invalid_value,
                fmt::format("NIC {}: an MTU of {} is below {}", config.name, *config.mtu, kLeastMtu));
  }
  return std::unique_ptr<Nic>(new Nic(loop, std::move(config), std::move(link)));
}

Nic::Nic(Loop& loop, NicConfig config, std::shared_ptr<Link> link)
    : loop_(loop),
      config_(std::move(config)),
      link_(std::move(link)),
      info_{.name = config_.name,
            .type = virtio::DeviceType::net,
            .features = nic_features(config_),
            .queues = static_cast<std::uint16_t>(2 * config_.queue_pairs),
            .queues_per_unit = 2,
            .largest_ring = config_.largest_ring,
            .config_size = sizeof(virtio::NetConfig),
            .can = {}},
      map_(memory::MemoryMap::empty()),
      filter_(config_.mac),
      queues_(info_.queues),
      counters_(info_.queues) {}

Nic::~Nic() {
  *alive_ = false;
  if (auto done = set_status(vdpa::Status::reset); !done) log::warn("NIC {}: {}", config_.name, done.error().text());
}

Result<void> Nic::set_features(FeatureSet features) {
  if (!features.is_subset_of(info_.features)) {
    return fail(Errc::not_supported, fmt::format("NIC {} does not offer {}", config_.name,
                                                 virtio::text(info_.type, features.minus(info_.features))));
  }
  features_ = features;
  filter_ = ReceiveFilter(config_.mac);
  push_filter();
  return {};
}

Result<void> Nic::set_status(vdpa::Status status) {
  status_ = status;
  if (status != vdpa::Status::reset) return {};
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    if (!queues_[i].is_set()) continue;
    CW_CHECK(enable_queue(QueueIndex{i}, false));
    CW_CHECK(stop_queue(QueueIndex{i}));
  }
  features_ = FeatureSet();
  filter_ = ReceiveFilter(config_.mac);
  push_filter();
  return {};
}

Result<void> Nic::read_config(std::uint32_t offset, std::span<std::byte> to) const {
  virtio::NetConfig space{};
  std::ranges::copy(config_.mac.bytes, std::begin(space.mac));
  space.status = virtio::kNetStatusLinkUp;
  space.max_virtqueue_pairs = config_.queue_pairs;
  space.mtu = config_.mtu.value_or(0);
  const auto bytes = std::as_bytes(std::span(&space, 1));
  if (offset > bytes.size() || to.size() > bytes.size() - offset) {
    return fail(Errc::peer_violation,
                fmt::format("configuration bytes {} to {} of {}", offset, offset + to.size(), bytes.size()));
  }
  std::ranges::copy(bytes.subspan(offset, to.size()), to.begin());
  return {};
}

Result<void> Nic::write_config(std::uint32_t /*offset*/, std::span<const std::byte> /*from*/) {
  return fail(Errc::not_supported,
              "a network device's configuration space cannot be written (virtio 1.3 section 5.1.4)");
}

Result<void> Nic::map(std::span<const memory::Region> regions) {
  auto all = map_->regions();
  all.insert(all.end(), regions.begin(), regions.end());
  return replace_map(std::move(all));
}

Result<void> Nic::unmap(std::span<const memory::Region> regions) {
  auto all = map_->regions();
  std::erase_if(all, [&](const memory::Region& region) {
    return std::ranges::any_of(regions, [&](const memory::Region& gone) { return gone.same_as(region); });
  });
  return replace_map(std::move(all));
}

Result<void> Nic::replace_map(std::vector<memory::Region> regions) {
  CW_TRY(map_, memory::MemoryMap::make(std::move(regions)));
  std::vector<std::pair<QueueIndex, Error>> failed;
  link_->worker().run([&] {
    for (std::uint16_t i = 0; i < queues_.size(); ++i) {
      Running& queue = queues_[i];
      if (!queue.is_set()) continue;
      auto replaced = queue.transmit ? queue.transmit->replace_map(map_) : queue.receive->replace_map(map_);
      if (replaced) continue;
      const std::uint16_t pair = pair_of(QueueIndex{i});
      queue.transmit ? link_->detach_transmit(pair) : link_->detach_receive(pair);
      failed.emplace_back(QueueIndex{i}, std::move(replaced).error());
    }
  });
  for (auto& [queue, reason] : failed) on_fault(queue, std::move(reason));
  return {};
}

Result<Nic::Running*> Nic::running(QueueIndex queue) {
  if (number(queue) >= queues_.size()) {
    return fail(Errc::invalid_value, fmt::format("NIC {} has no queue {}", config_.name, number(queue)));
  }
  return &queues_[number(queue)];
}

Result<void> Nic::set_queue(QueueIndex queue, vdpa::QueueSetup setup) {
  CW_TRY(Running * slot, running(queue));
  if (slot->is_set()) return fail(Errc::busy, fmt::format("NIC {}: queue {} runs", config_.name, number(queue)));
  Running started;
  QueueCounters& counters = counters_[number(queue)];
  if (transmits(queue)) {
    CW_TRY(started.transmit, TransmitQueue::start(setup, map_, counters));
  } else {
    CW_TRY(started.receive, ReceiveQueue::start(setup, map_, counters));
  }
  started.kick = setup.kick;
  CW_CHECK(attach(pair_of(queue), transmits(queue), started));
  *slot = std::move(started);
  return {};
}

Result<void> Nic::attach(std::uint16_t pair, bool is_transmit, Running& queue) {
  Result<void> watched;
  link_->worker().run([&] {
    Worker& worker = link_->worker();
    if (queue.kick) watched = worker.watch_event(queue.kick->fd());
    if (!watched) return;
    if (is_transmit) {
      link_->attach(pair, *queue.transmit, fault_handler());
    } else {
      link_->attach(pair, *queue.receive, fault_handler());
    }
  });
  return watched;
}

Link::OnFault Nic::fault_handler() {
  return [this, alive = alive_](std::uint16_t pair, bool is_transmit, virtio::RingFault fault) {
    // On the worker's thread: the Port hears of it on the control thread, if it still exists then.
    const QueueIndex queue{static_cast<std::uint16_t>(2 * pair + (is_transmit ? 1 : 0))};
    loop_.post([this, alive, queue, fault] {
      if (*alive) on_fault(queue, Error{.code = Errc::peer_violation, .what = std::string(virtio::text(fault))});
    });
  };
}

void Nic::on_fault(QueueIndex queue, Error reason) {
  if (observer_ != nullptr && queues_[number(queue)].is_set()) observer_->queue_failed(queue, std::move(reason));
}

Result<void> Nic::enable_queue(QueueIndex queue, bool enabled) {
  CW_CHECK(running(queue));
  link_->worker().run([&] {
    if (transmits(queue)) {
      link_->enable_transmit(pair_of(queue), enabled);
    } else {
      link_->enable_receive(pair_of(queue), enabled);
    }
  });
  return {};
}

Result<void> Nic::set_call(QueueIndex queue, std::optional<CallFd> call) {
  CW_TRY(Running * slot, running(queue));
  if (!slot->is_set())
    return fail(Errc::invalid_value, fmt::format("NIC {}: queue {} does not run", config_.name, number(queue)));
  link_->worker().run([&] {
    if (slot->transmit) {
      slot->transmit->set_call(std::move(call));
    } else {
      slot->receive->set_call(std::move(call));
    }
  });
  return {};
}

Result<vdpa::QueueState> Nic::stop_queue(QueueIndex queue) {
  CW_TRY(Running * slot, running(queue));
  if (!slot->is_set())
    return fail(Errc::invalid_value, fmt::format("NIC {}: queue {} does not run", config_.name, number(queue)));
  vdpa::QueueState state;
  link_->worker().run([&] {
    if (slot->kick) link_->worker().unwatch(slot->kick->fd());
    if (slot->transmit) {
      link_->detach_transmit(pair_of(queue));
      state = slot->transmit->state();
    } else {
      link_->detach_receive(pair_of(queue));
      state = slot->receive->stop();
    }
  });
  *slot = Running{};
  return state;
}

std::optional<QueueIndex> Nic::control_queue(FeatureSet features) const {
  if (!features.has(NetFeature::ctrl_vq)) return std::nullopt;
  // Without MQ the control queue follows the first pair, whatever the device has (5.1.2).
  return QueueIndex{features.has(NetFeature::mq) ? info_.queues : std::uint16_t{2}};
}

vdpa::ControlReply Nic::control(std::span<const std::byte> command) {
  const vdpa::ControlReply reply = filter_.apply(command, features_, config_.queue_pairs);
  if (reply.ack == virtio::kCtrlOk) push_filter();
  return reply;
}

void Nic::push_filter() {
  link_->worker().run([&] { link_->set_filter(filter_); });
}

std::vector<vdpa::Counter> Nic::counters(QueueIndex queue) const {
  return number(queue) < counters_.size() ? counters_[number(queue)].report() : std::vector<vdpa::Counter>{};
}

Result<void> Nic::announce(std::span<const std::byte, 6> mac) {
  // A reverse ARP request about itself (RFC 903), as hypervisors send after a migration: switches learn where it is
  // now.
  std::array<std::byte, 60> frame{};
  const auto put = [&frame](std::size_t at, auto... values) { ((frame[at++] = static_cast<std::byte>(values)), ...); };
  std::ranges::fill_n(frame.begin(), 6, std::byte{0xff});
  std::ranges::copy(mac, frame.begin() + 6);
  put(12, kEtherTypeRarp >> 8, kEtherTypeRarp & 0xff, 0, 1, 8, 0, 6, 4, 0, 3);
  std::ranges::copy(mac, frame.begin() + 22);
  std::ranges::copy(mac, frame.begin() + 32);
  link_->worker().run([&] { link_->inject(frame); });
  return {};
}

Result<void> Nic::set_mtu(std::uint16_t mtu) {
  if (mtu < kLeastMtu) return fail(Errc::peer_violation, fmt::format("an MTU of {} is below {}", mtu, kLeastMtu));
  if (config_.mtu && mtu > *config_.mtu) {
    return fail(Errc::peer_violation, fmt::format("an MTU of {} is above the port's, {}", mtu, *config_.mtu));
  }
  link_->worker().run([&] { link_->set_mtu(mtu); });
  return {};
}

}  // namespace causeway::net

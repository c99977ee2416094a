#include "net/nic.h"

#include "base/log.h"
#include "net/statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace causeway::net {
namespace {

using vdpa::QueueIndex;
using virtio::FeatureSet;
using virtio::NetFeature;

constexpr bool transmits(QueueIndex queue) {
  return number(queue) % 2 == 1;
}
constexpr std::uint16_t pair_of(QueueIndex queue) {
  return static_cast<std::uint16_t>(number(queue) / 2);
}

}  // namespace

Result<std::unique_ptr<Nic>> Nic::make(Loop& loop, NicConfig config, std::shared_ptr<Link> link) {
  CW_CHECK(check(config));
  return std::unique_ptr<Nic>(new Nic(loop, std::move(config), std::move(link)));
}

Nic::Nic(Loop& loop, NicConfig config, std::shared_ptr<Link> link)
    : loop_(loop),
      config_(std::move(config)),
      link_(std::move(link)),
      info_{.name = config_.name,
            .type = virtio::DeviceType::net,
            .features = nic_features(config_).minus(link_->unsupported()),
            .features_alone = {NetFeature::device_stats},
            .queues = static_cast<std::uint16_t>(2 * config_.queue_pairs),
            .queues_per_unit = 2,
            .largest_ring = config_.largest_ring,
            .config_size = sizeof(virtio::NetConfig),
            .can = {.logs_dirty = true, .record_in_flight = true}},
      map_(memory::MemoryMap::empty()),
      settings_(config_.mac, {}, config_.queue_pairs),
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
  start_over(features);
  return {};
}

Result<void> Nic::set_status(vdpa::Status status) {
  status_ = status;
  if (status != vdpa::Status::reset) return {};
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    if (!queues_[i].is_set()) continue;
    CW_CHECK(stop_queue(QueueIndex{i}, vdpa::StopMode::drain));
    CW_CHECK(enable_queue(QueueIndex{i}, false));
  }
  start_over({});
  translations_.reset();
  return {};
}

void Nic::start_over(FeatureSet features) {
  features_ = features;
  settings_ = DriverSettings(config_.mac, features_, config_.queue_pairs);
  asks_to_announce_ = false;
  has_control_ = false;
}

Result<void> Nic::read_config(std::uint32_t offset, std::span<std::byte> to) const {
  virtio::NetConfig space = config_space(config_);
  // The address that the driver has set shows here too (5.1.6.5.2).
  std::ranges::copy(settings_.filter().mac().bytes, std::begin(space.mac));
  if (is_up_) space.status |= virtio::kNetStatusLinkUp;
  if (asks_to_announce_) space.status |= virtio::kNetStatusAnnounce;
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
      if (!queue.is_set() || queue.is_translated) continue;
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

Result<void> Nic::set_translations(const std::shared_ptr<const memory::MemoryMap>& map,
                                   const memory::IovaRange* /*gone*/) {
  translations_ = map;
  if (std::ranges::none_of(queues_, [](const Running& queue) { return queue.is_translated; })) return {};
  Result<void> replaced;
  link_->worker().run_anywhere([&] {
    bool has_work = false;
    for (const Running& queue : queues_) {
      if (!queue.is_translated || !replaced) continue;
      has_work = has_work || queue.transmit->is_waiting();
      replaced = queue.transmit->replace_map(translations_);
    }
    return has_work;
  });
  return replaced;
}

TransmitQueue::OnMiss Nic::miss_handler(QueueIndex queue) {
  return [this, alive = alive_, queue](std::vector<memory::Miss> misses, std::uint64_t renewals) {
    loop_.post([this, alive, queue, renewals, misses = std::move(misses)] {
      if (!*alive || observer_ == nullptr) return;
      const Running& waits = queues_[number(queue)];
      // Its map may be another by now: then the driver may have taken back what was missed.
      if (waits.is_translated && waits.transmit->renewals() == renewals) observer_->translations_missed(queue, misses);
    });
  };
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
  if (setup.is_translated && (!translates(queue) || translations_ == nullptr)) {
    return fail(Errc::not_supported, fmt::format("NIC {}: queue {} does not translate", config_.name, number(queue)));
  }
  started.is_translated = setup.is_translated;
  if (transmits(queue)) {
    CW_TRY(started.transmit,
           TransmitQueue::start(setup, setup.is_translated ? translations_ : map_, counters, miss_handler(queue)));
  } else {
    CW_TRY(started.receive, ReceiveQueue::start(setup, map_, counters));
  }
  started.kick = setup.kick;
  CW_CHECK(attach(pair_of(queue), transmits(queue), setup.enabled, started));
  *slot = std::move(started);
  return {};
}

Result<void> Nic::attach(std::uint16_t pair, bool is_transmit, bool enabled, Running& queue) {
  Result<void> watched;
  link_->worker().run([&] {
    Worker& worker = link_->worker();
    if (queue.kick) {
      auto& kicks = counters_[2U * pair + (is_transmit ? 1U : 0U)].kicks;
      watched = worker.watch_event(queue.kick->fd(), &kicks);
    }
    if (!watched) return;
    link_->set_settings(settings_);
    if (is_transmit) {
      link_->enable_transmit(pair, enabled);
      link_->attach(pair, *queue.transmit, fault_handler());
    } else {
      link_->enable_receive(pair, enabled);
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

Result<vdpa::QueueState> Nic::stop_queue(QueueIndex queue, vdpa::StopMode /*mode*/) {
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
  // Without MQ and RSS the control queue follows the first pair, whatever the device has (5.1.2).
  const bool has_many = features.has(NetFeature::mq) || features.has(NetFeature::rss);
  return QueueIndex{has_many ? info_.queues : std::uint16_t{2}};
}

vdpa::ControlReply Nic::control(std::span<const std::byte> command) {
  // Whoever asks for statistics need not be the driver: a driver of the function that this NIC is may do so for itself.
  if (is_statistics(command)) return answer_statistics(command, features_, counters_);
  has_control_ = true;
  const vdpa::ControlReply reply = settings_.apply(command);
  if (reply.ack != virtio::kCtrlOk) return reply;
  if (static_cast<virtio::NetCtrlClass>(command[0]) == virtio::NetCtrlClass::announce) {
    // The driver has read the status already: its change is no news (5.1.6.5.4).
    asks_to_announce_ = false;
    ++generation_;
    return reply;
  }
  // A NIC without queues leaves alone what the link's other NICs have set: commands may be being replayed to it, and
  // only the last makes the settings whole. The link gets them with the first queue.
  const bool runs = std::ranges::any_of(queues_, [](const Running& queue) { return queue.is_set(); });
  if (runs) link_->worker().run([&] { link_->set_settings(settings_); });
  return reply;
}

void Nic::change_config() {
  ++generation_;
  if (observer_ != nullptr) observer_->config_changed();
}

void Nic::set_link(bool up) {
  if (is_up_ == up) return;
  is_up_ = up;
  link_->worker().run([&] { link_->set_up(up); });
  change_config();
}

bool Nic::wants_to_announce() const {
  return has_control_ && features_.has(NetFeature::guest_announce) && features_.has(NetFeature::status) &&
         features_.has(NetFeature::ctrl_vq);
}

std::vector<vdpa::Counter> Nic::counters(QueueIndex queue) const {
  return number(queue) < counters_.size() ? counters_[number(queue)].report() : std::vector<vdpa::Counter>{};
}

Result<void> Nic::announce(std::span<const std::byte, 6> mac) {
  if (wants_to_announce()) {
    asks_to_announce_ = true;
    change_config();
    return {};
  }
  const auto frame = announcement(mac);
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

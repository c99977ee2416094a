// Memory and queues of a Frontend, and what the driver says through the control queue.
#include "base/log.h"
#include "vhost_user/frontend.h"
#include "vhost_user/ring_position.h"
#include "virtio/net.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::vhost_user {

// --- Memory ---------------------------------------------------------------------------------------------------------

Result<void> Frontend::map(std::span<const memory::Region> regions) {
  std::vector<memory::Region> all = map_->regions();
  all.insert(all.end(), regions.begin(), regions.end());
  CW_TRY(auto map, memory::MemoryMap::make(std::move(all)));
  CW_CHECK(with_remote([&](RemoteBackend& remote) { return remote.add_memory(regions, map->regions()); }));
  map_ = std::move(map);
  return {};
}

Result<void> Frontend::unmap(std::span<const memory::Region> regions) {
  std::vector<memory::Region> rest = map_->regions();
  std::erase_if(rest, [&](const memory::Region& region) {
    return std::ranges::any_of(regions, [&](const memory::Region& gone) { return gone.same_as(region); });
  });
  CW_TRY(auto map, memory::MemoryMap::make(std::move(rest)));
  stop_queues_outside(*map);
  // From here on the region is no longer ours to give, whatever the back-end says: a successor is not told of it.
  map_ = std::move(map);
  const bool has_driver_left = map_->regions().empty() && queues_.empty() && status_ == vdpa::Status::reset;
  if (has_driver_left && may_connect_anew()) {
    connect_anew();
    return {};
  }
  return with_remote([&](RemoteBackend& remote) { return remote.remove_memory(regions, map_->regions()); });
}

void Frontend::stop_queues_outside(const memory::MemoryMap& map) {
  for (auto& [index, queue] : queues_) {
    if (virtio::RingAreas::locate(queue.setup.ring, map)) continue;
    if (is_connected()) {
      if (auto stopped = remote_->stop_ring(index, vdpa::StopMode::drain); !stopped)
        log::warn("device {}: {}", info_.name, stopped.error().text());
    }
    queue.doorbell.reset();
    queue.group.reset();
    fail_soon(index, {.code = Errc::peer_violation, .what = "the memory of its ring is gone"});
  }
}

// --- Queues ---------------------------------------------------------------------------------------------------------

Result<Frontend::Queue*> Frontend::find(QueueIndex queue) {
  const auto found = queues_.find(queue);
  if (found != queues_.end()) return &found->second;
  if (!is_connected() && !config_.reconnect) return gone();
  return fail(Errc::not_found, fmt::format("device {}: queue {} does not run", info_.name, virtio::number(queue)));
}

Result<memory::FrontendVa> Frontend::frontend_address(memory::Iova address) const {
  for (const memory::Region& region : map_->regions()) {
    const std::uint64_t offset = address.value() - region.iova.value();
    if (address >= region.iova && offset < region.size) return memory::FrontendVa(region.frontend_va.value() + offset);
  }
  return fail(Errc::peer_violation, fmt::format("ring address {} is in no memory region", address));
}

Result<RemoteRing> Frontend::remote_ring(QueueIndex index, const Queue& queue, bool is_tracked) const {
  const virtio::RingConfig& ring = queue.setup.ring;
  CW_TRY(const auto descriptors, frontend_address(ring.descriptors));
  CW_TRY(const auto available, frontend_address(ring.available));
  CW_TRY(const auto used, frontend_address(ring.used));
  const bool is_in_record = is_tracked && !ring.start.in_flight.empty();
  CW_TRY(const std::uint32_t position, is_in_record ? recorded_position(ring, *map_) : wire_position(ring, *map_));
  return RemoteRing{.queue = index,
                    .entries = ring.size.entries(),
                    .position = position,
                    .descriptors = descriptors,
                    .available = available,
                    .used = used,
                    .call = queue.setup.call,
                    .err = queue.err};
}

Result<void> Frontend::set_queue(QueueIndex index, vdpa::QueueSetup setup) {
  if (virtio::number(index) >= info_.queues) {
    return fail(Errc::peer_violation, fmt::format("device {} has {} queues", info_.name, info_.queues));
  }
  if (!is_connected() && !config_.reconnect) return gone();
  if (!features_) CW_CHECK(set_features({}));
  auto areas = virtio::RingAreas::locate(setup.ring, *map_);
  if (!areas) return fail(std::move(areas).error());
  Queue queue{.setup = std::move(setup),
              .enabled = false,
              .runs = false,
              .started = false,
              .is_recorded = false,
              .err = {},
              .watch_err = {},
              .watch_kick = {},
              .doorbell = {},
              .group = {}};
  CW_TRY(queue.err, ErrFd::make());
  CW_CHECK(with_remote([&](RemoteBackend& remote) { return set_up(remote, index, queue); }));
  const auto place = queues_.insert_or_assign(index, std::move(queue)).first;
  watch_ring(index, place->second);
  return {};
}

Result<void> Frontend::set_up(RemoteBackend& remote, QueueIndex index, const Queue& queue) {
  CW_TRY(const RemoteRing ring, remote_ring(index, queue, tracks(remote)));
  return remote.set_up_ring(ring);
}

void Frontend::watch_ring(QueueIndex index, Queue& queue) {
  // A loop watches a descriptor once only: the old watch goes before the new one is made.
  queue.watch_err.reset();
  queue.watch_kick.reset();
  queue.watch_err.emplace(loop_.watch(queue.err->fd(), [this, index, err = *queue.err] {
    if (err.drain())
      fail_soon(index, {.code = Errc::peer_violation, .what = "the back-end says that its ring is broken"});
  }));
  if (!queue.setup.kick || !is_connected() || !remote_->has(ProtocolFeature::inband_notifications)) return;
  queue.watch_kick.emplace(loop_.watch(queue.setup.kick->fd(), [this, index, kick = *queue.setup.kick] {
    if (!kick.drain() || !is_connected()) return;
    if (auto sent = remote_->kick(index); !sent) log::warn("device {}: {}", info_.name, sent.error().text());
  }));
}

Result<void> Frontend::enable_queue(QueueIndex index, bool enabled) {
  if (!enabled && !queues_.contains(index)) return {};
  CW_TRY(Queue * queue, find(index));
  const bool before = std::exchange(queue->enabled, enabled);
  auto done = with_remote([&](RemoteBackend& remote) { return apply_enabled(remote, index, *queue); });
  if (done) {
    queue->runs = true;
  } else {
    queue->enabled = before;
  }
  return done;
}

Result<void> Frontend::apply_enabled(RemoteBackend& remote, QueueIndex index, Queue& queue) {
  using vdpa::Status;
  const bool enabled = queue.enabled && virtio::number(index) < active_queues_;
  if (!queue.started) CW_CHECK(share_record(remote, index, queue));
  if (enabled && !is_driver_ok_told_) {
    // The driver side need not speak of status at all, yet a back-end that does starts only with DRIVER_OK.
    CW_CHECK(
        remote.set_status(status_ | Status::acknowledge | Status::driver | Status::features_ok | Status::driver_ok));
    is_driver_ok_told_ = true;
  }
  CW_CHECK(remote.enable_ring(index, enabled));
  return queue.started ? Result<void>() : start_ring(remote, index, queue);
}

Result<void> Frontend::start_ring(RemoteBackend& remote, QueueIndex index, Queue& queue) {
  if (auto started = remote.start_ring(index, queue.setup.kick); !started) {
    // One that is lost on the way may have begun.
    queue.started = !remote.is_open();
    return started;
  }
  queue.started = true;
  // The look at the ring that a start promises: a back-end may wait for a kick.
  if (queue.setup.kick) queue.setup.kick->signal();
  return {};
}

Result<void> Frontend::set_call(QueueIndex index, std::optional<CallFd> call) {
  CW_TRY(Queue * queue, find(index));
  CW_CHECK(with_remote([&](RemoteBackend& remote) -> Result<void> {
    if (remote.has(ProtocolFeature::inband_notifications)) return {};
    return remote.set_call(index, call);
  }));
  queue->setup.call = std::move(call);
  return {};
}

Result<vdpa::QueueState> Frontend::stop_queue(QueueIndex index, vdpa::StopMode mode) {
  CW_TRY(Queue * queue, find(index));
  const Queue stopped = std::move(*queue);
  queues_.erase(index);
  if (!stopped.started) return stopped.setup.ring.start;
  return end_ring(index, stopped, mode);
}

Result<vdpa::QueueState> Frontend::end_ring(QueueIndex index, const Queue& queue, vdpa::StopMode mode) {
  Result<std::uint32_t> position = gone();
  if (is_connected()) position = remote_->stop_ring(index, mode);
  if (position) return state_at(index, queue, *position);
  if (auto recorded = recorded_state(index, queue)) return *std::move(recorded);
  if (config_.reconnect && !is_connected()) return state_in_ring(queue.setup.ring, *map_);
  return fail(std::move(position).error());
}

void Frontend::fail_soon(QueueIndex queue, Error reason) {
  failures_.emplace_back(queue, std::move(reason));
  fail_soon_.emplace(loop_.after(std::chrono::milliseconds(0), [this] {
    for (auto& [failed, why] : std::exchange(failures_, {})) {
      if (observer_ != nullptr && queues_.contains(failed)) observer_->queue_failed(failed, std::move(why));
    }
  }));
}

// --- The control queue ----------------------------------------------------------------------------------------------

std::optional<QueueIndex> Frontend::control_queue(virtio::FeatureSet features) const {
  if (info_.type != virtio::DeviceType::net || !features.has(virtio::NetFeature::ctrl_vq)) return std::nullopt;
  // Without MQ the control queue follows the first pair, whatever the device has (5.1.2).
  return QueueIndex{features.has(virtio::NetFeature::mq) ? info_.queues : std::uint16_t{2}};
}

vdpa::ControlReply Frontend::control(std::span<const std::byte> command) {
  using virtio::NetCtrlClass;
  if (command.size() < 2) return {.ack = virtio::kCtrlErr};
  const auto number_at = [&](std::size_t i) { return std::to_integer<unsigned>(command[i]); };
  const auto family = static_cast<NetCtrlClass>(number_at(0));
  const auto topic = [&](unsigned key) { return std::uint64_t{number_at(0)} << 32 | key; };
  const bool has_number = command.size() == 4;
  const unsigned value = has_number ? number_at(2) | number_at(3) << 8 : 0;
  switch (family) {
    case NetCtrlClass::rx:
    case NetCtrlClass::mac:
      return {.ack = virtio::kCtrlOk, .topic = topic(number_at(1))};
    case NetCtrlClass::vlan:
      if (!has_number) return {.ack = virtio::kCtrlErr};
      return {.ack = virtio::kCtrlOk, .topic = topic(value), .is_default = number_at(1) != 0};
    case NetCtrlClass::announce:
      return {.ack = virtio::kCtrlOk, .topic = topic(0), .is_default = true};
    case NetCtrlClass::mq:
      if (!has_number || number_at(1) != 0 || !use_pairs(value)) return {.ack = virtio::kCtrlErr};
      return {.ack = virtio::kCtrlOk, .topic = topic(0)};
    case NetCtrlClass::guest_offloads:
    case NetCtrlClass::stats:
      break;
  }
  return {.ack = virtio::kCtrlErr};
}

bool Frontend::use_pairs(unsigned pairs) {
  if (pairs == 0 || pairs * 2 > info_.queues) return false;
  active_queues_ = static_cast<std::uint16_t>(pairs * 2);
  for (auto& [index, queue] : queues_) {
    if (!queue.runs) continue;
    auto done = with_remote([&](RemoteBackend& remote) { return apply_enabled(remote, index, queue); });
    if (done) continue;
    log::warn("device {}: {}", info_.name, done.error().text());
    return false;
  }
  return true;
}

}  // namespace causeway::vhost_user

// What a Frontend does when its back-end leaves, and when another one comes.
#include "base/log.h"
#include "vhost_user/frontend.h"
#include "vhost_user/ring_position.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::vhost_user {

void Frontend::on_message(const BackendMessage& message) {
  if (message.request == BackendRequest::config_change_msg) {
    ++generation_;
    if (observer_ != nullptr) observer_->config_changed();
    return;
  }
  const auto found = queues_.find(message.queue);
  if (found == queues_.end()) return;  // news of a queue that has stopped meanwhile
  if (message.request == BackendRequest::vring_host_notifier_msg) {
    set_doorbell(message.queue, found->second, message.area);
  } else if (message.request == BackendRequest::vring_vfio_group_msg) {
    set_vfio_group(message.queue, found->second, message.group);
  } else if (message.request == BackendRequest::vring_call) {
    if (found->second.setup.call) found->second.setup.call->signal();
  } else {
    fail_soon(message.queue, {.code = Errc::peer_violation, .what = "the back-end says that its ring is broken"});
  }
}

void Frontend::on_end(const Error& why) {
  remote_.reset();
  is_driver_ok_told_ = false;
  record_stage_ = RecordStage::nothing;
  if (config_.reconnect) {
    log::warn("device {}: {}; waiting for a back-end", info_.name, why.text());
    for (auto& [index, queue] : queues_) {
      set_doorbell(index, queue, std::nullopt);
      set_vfio_group(index, queue, nullptr);
    }
    seek();
    return;
  }
  keep_last_states();
  queues_.clear();
  forget_record();
  features_.reset();
  map_ = memory::MemoryMap::empty();
  if (observer_ != nullptr) observer_->device_gone(why);
}

/// For the next driver. The end of a connection is the one thing upon which every back-end lets go of memory: some go
/// on with requests after a ring has stopped, or cannot have other memory on a connection whose rings were used
/// (qemu-storage-daemon).
void Frontend::connect_anew() {
  remote_.reset();
  is_driver_ok_told_ = false;
  record_stage_ = RecordStage::nothing;
  seek();
}

void Frontend::seek() {
  connector_->seek([this](UnixSocket socket) { on_found(std::move(socket)); });
}

void Frontend::on_found(UnixSocket socket) {
  const auto welcome = [&]() -> Result<void> {
    CW_TRY(auto remote, negotiate(std::move(socket)));
    CW_CHECK(check_successor(*remote));
    is_driver_ok_told_ = false;
    record_stage_ = RecordStage::nothing;
    CW_CHECK(replay(*remote));
    remote_ = std::move(remote);
    return {};
  };
  if (auto welcomed = welcome(); !welcomed) {
    log::warn("device {}: the back-end that came is refused: {}", info_.name, welcomed.error().text());
    is_driver_ok_told_ = false;
    seek();
    return;
  }
  connector_->settled();
  log::info("device {}: a back-end is there again; {} queues go on", info_.name, queues_.size());
  for (auto& [index, queue] : queues_) {
    watch_ring(index, queue);
    // Notifications of the time between are lost: one too many is legal, one lost is a hang.
    if (queue.setup.kick) queue.setup.kick->signal();
    if (queue.setup.call) queue.setup.call->signal();
  }
  // Its configuration may be another one.
  ++generation_;
  if (observer_ != nullptr) observer_->config_changed();
}

Result<void> Frontend::check_successor(const RemoteBackend& remote) const {
  const auto missing = features_.value_or(virtio::FeatureSet()).minus(offered_by(remote));
  if (missing.bits() != 0) {
    return fail(Errc::not_supported,
                fmt::format("it lacks negotiated features: {}", virtio::text(info_.type, missing)));
  }
  const std::uint64_t queues = remote.queue_units() * info_.queues_per_unit;
  if (queues >= info_.queues) return {};
  return fail(Errc::not_supported, fmt::format("it has {} queues, must have {}", queues, info_.queues));
}

Result<void> Frontend::replay(RemoteBackend& remote) {
  if (features_) CW_CHECK(remote.set_features(*features_ & remote.features()));
  const auto& regions = map_->regions();
  if (!regions.empty()) CW_CHECK(remote.add_memory(regions, regions));
  if (mtu_) CW_CHECK(remote.set_mtu(*mtu_));
  CW_CHECK(replay_queues(remote));
  if (status_ == vdpa::Status::reset) return {};
  return remote.set_status(status_);
}

/// Where a queue goes on whose back-end has died.
Result<vdpa::QueueState> Frontend::resume(QueueIndex index, Queue& queue) {
  if (auto recorded = recorded_state(index, queue)) return *std::move(recorded);
  // A record that says nothing must not contradict the ring either: it is begun anew.
  queue.is_recorded = false;
  return state_in_ring(queue.setup.ring, *map_);
}

Result<void> Frontend::replay_queues(RemoteBackend& remote) {
  for (auto& [index, queue] : queues_) {
    if (queue.started) {
      auto state = resume(index, queue);
      if (!state) {
        queue.runs = false;
        fail_soon(index, std::move(state).error());
        continue;
      }
      queue.setup.ring.start = std::move(*state);
    }
    queue.started = false;
    CW_CHECK(set_up(remote, index, queue));
  }
  // What it does not keep would soon be wrong.
  if (!tracks(remote)) forget_record();
  for (auto& [index, queue] : queues_) {
    if (queue.runs) CW_CHECK(apply_enabled(remote, index, queue));
  }
  return {};
}

}  // namespace causeway::vhost_user

// The record of what is in flight in a Frontend's queues: memory that the back-end makes and writes, and that we keep
// when it dies. Spec: QEMU docs/interop/vhost-user.rst, "Inflight I/O tracking".
#include "base/log.h"
#include "vhost_user/frontend.h"
#include "vhost_user/ring_position.h"

#include <algorithm>
#include <utility>

namespace causeway::vhost_user {

bool Frontend::tracks(const RemoteBackend& remote) const {
  return remote.has(ProtocolFeature::inflight_shmfd) && record_stage_ != RecordStage::none_possible;
}

bool Frontend::record_fits() const {
  return record_ && std::ranges::all_of(queues_, [this](const auto& entry) {
           const virtio::RingConfig& ring = entry.second.setup.ring;
           return record_->area(entry.first, ring.layout(), ring.size).has_value();
         });
}

/// Before `queue` starts: the back-end has the record by then, and the record says where the queue stands.
Result<void> Frontend::share_record(RemoteBackend& remote, QueueIndex index, Queue& queue) {
  if (!tracks(remote)) return {};
  if (!record_fits() || record_stage_ != RecordStage::shared) {
    std::vector<QueueIndex> paused;
    if (!record_fits()) {
      CW_TRY(paused, pause_rings());
      forget_record();
    }
    CW_CHECK(hand_over_record(remote));
    for (auto& [other, waiting] : queues_) {
      // Set up again: without a record, a position must say by itself what is in flight.
      const bool is_waiting = !waiting.started && std::ranges::find(paused, other) == paused.end();
      if (is_waiting && !tracks(remote)) CW_CHECK(set_up(remote, other, waiting));
    }
    for (const QueueIndex other : paused) {
      auto goes_on = set_up(remote, other, queues_.at(other));
      if (goes_on) goes_on = apply_enabled(remote, other, queues_.at(other));
      if (goes_on) continue;
      if (!remote.is_open()) return goes_on;
      fail_soon(other, std::move(goes_on).error());
    }
  }
  if (!record_ || queue.is_recorded) return {};
  const virtio::RingConfig& ring = queue.setup.ring;
  CW_CHECK(virtio::record_start(*record_->area(index, ring.layout(), ring.size), ring, *map_));
  queue.is_recorded = true;
  return {};
}

/// The record that was kept, or else a new one of the back-end's. One that has none works without.
Result<void> Frontend::hand_over_record(RemoteBackend& remote) {
  const auto share = [&]() -> Result<void> {
    if (!record_) {
      const virtio::RingConfig& largest = std::ranges::max_element(queues_, {}, [](const auto& entry) {
                                            return entry.second.setup.ring.size.entries();
                                          })->second.setup.ring;
      CW_TRY(record_, remote.make_record(largest.layout(), info_.queues, largest.size));
    }
    return remote.use_record(*record_);
  };
  auto shared = share();
  if (!shared && !remote.is_open()) return shared;
  record_stage_ = shared ? RecordStage::shared : RecordStage::none_possible;
  if (shared) return {};
  log::warn("device {}: nobody records what is in flight: {}", info_.name, shared.error().text());
  record_.reset();
  for (auto& [index, queue] : queues_) queue.is_recorded = false;
  return {};
}

/// Stops all rings that run, so that another record can take the place of theirs; the queues know where they stand.
Result<std::vector<QueueIndex>> Frontend::pause_rings() {
  std::vector<QueueIndex> paused;
  for (auto& [index, queue] : queues_) {
    if (!queue.started) continue;
    CW_TRY(queue.setup.ring.start, end_ring(index, queue, vdpa::StopMode::leave));
    queue.started = false;
    paused.push_back(index);
  }
  return paused;
}

void Frontend::forget_record() {
  record_.reset();
  record_stage_ = RecordStage::nothing;
  for (auto& [index, queue] : queues_) queue.is_recorded = false;
}

/// What the record says of a ring that nobody works; nothing when it says nothing, or nonsense.
std::optional<vdpa::QueueState> Frontend::recorded_state(QueueIndex index, const Queue& queue) const {
  if (!record_ || !queue.is_recorded) return std::nullopt;
  const virtio::RingConfig& ring = queue.setup.ring;
  const auto area = record_->area(index, ring.layout(), ring.size);
  if (!area) return std::nullopt;
  auto recorded = virtio::recover(*area, ring, *map_);
  if (recorded) return *std::move(recorded);
  log::warn("device {} queue {}: {}", info_.name, virtio::number(index), recorded.error().text());
  return std::nullopt;
}

/// Of a ring that has just stopped at `position`: that says whether anything is in flight, the record says what.
Result<vdpa::QueueState> Frontend::state_at(QueueIndex index, const Queue& queue, std::uint32_t position) const {
  const virtio::RingConfig& ring = queue.setup.ring;
  CW_TRY(auto state, decode_position(ring.layout(), position));
  if (!queue.is_recorded) return state;
  // Of a packed ring the used half may be 0 because it stands there, or because the back-end knows of none.
  bool is_idle = state.avail == state.used && position >> 16 != 0;
  if (ring.layout() == virtio::Layout::split) {
    CW_TRY(const auto used, state_in_ring(ring, *map_));
    is_idle = state.avail == used.used;
  }
  if (is_idle) return state;
  auto recorded = recorded_state(index, queue);
  if (!recorded) return state;
  if (recorded->avail != state.avail) {
    log::warn("device {} queue {}: its back-end has stopped at {:#x}, and has recorded {:#x}", info_.name,
              virtio::number(index), state.avail, recorded->avail);
  }
  return *std::move(recorded);
}

void Frontend::keep_last_states() {
  for (const auto& [index, queue] : queues_) {
    if (!queue.started) continue;
    if (auto recorded = recorded_state(index, queue)) last_states_.insert_or_assign(index, *std::move(recorded));
  }
}

std::optional<vdpa::QueueState> Frontend::last_state(QueueIndex queue) const {
  const auto found = last_states_.find(queue);
  return found == last_states_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace causeway::vhost_user

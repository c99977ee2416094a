// Set-up, start, stop and rebind of one queue.

#include "port/port.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::port {

Result<Port::Queue*> Port::find(QueueIndex queue) {
  if (number(queue) >= queues_.size()) {
    return fail(Errc::peer_violation,
                fmt::format("queue {} does not exist: port {} has {}", number(queue), name(), queues_.size()));
  }
  return &queues_[number(queue)];
}

Result<Port::Queue*> Port::find_stopped(QueueIndex queue, std::string_view wish) {
  CW_TRY(Queue * state, find(queue));
  if (state->started) {
    return fail(Errc::peer_violation, fmt::format("queue {} runs: its {} cannot change", number(queue), wish));
  }
  return state;
}

bool Port::is_control(QueueIndex queue) const {
  return slots_.back().device->control_queue(features_) == queue;
}

Result<void> Port::set_queue_size(QueueIndex queue, std::uint32_t entries) {
  CW_TRY(Queue * state, find_stopped(queue, "size"));
  if (entries > info().largest_ring) {
    return fail(Errc::peer_violation,
                fmt::format("queue {}: {} entries are more than {}", number(queue), entries, info().largest_ring));
  }
  CW_TRY(state->size, virtio::QueueSize::make(virtio::layout_of(features_), entries));
  return {};
}

Result<void> Port::set_queue_addresses(QueueIndex queue, RingAddresses addresses) {
  CW_TRY(Queue * state, find(queue));
  if (state->addresses == addresses) return {};
  const auto old = std::exchange(state->addresses, addresses);
  if (state->size) {
    // Say now what is wrong, where a front-end can still connect the error with its message.
    if (auto ring = ring_of(queue, *state); !ring && !memory_->regions().empty()) {
      state->addresses = old;
      return fail(std::move(ring).error());
    }
  }
  if (!state->started) return {};
  CW_TRY(state->start, halt(queue, *state, vdpa::StopMode::leave));
  return run(queue, *state);
}

Result<void> Port::set_queue_base(QueueIndex queue, QueueState position) {
  CW_TRY(Queue * state, find_stopped(queue, "base"));
  state->start = std::move(position);
  return {};
}

Result<void> Port::start_queue(QueueIndex queue, std::optional<KickFd> kick) {
  CW_TRY(Queue * state, find(queue));
  if (state->started) {
    CW_TRY(state->start, halt(queue, *state, vdpa::StopMode::leave));
  }
  state->kick = std::move(kick);
  meet_former(queue, *state);
  save_starting(queue);
  auto running = run(queue, *state);
  save();
  return running;
}

Result<void> Port::set_queue_call(QueueIndex queue, std::optional<CallFd> call) {
  CW_TRY(Queue * state, find(queue));
  state->call = std::move(call);
  if (!state->started || state->failed) return {};
  if (is_control(queue)) {
    control_queue_->set_call(state->call);
  } else {
    CW_CHECK(slots_[state->slot].device->set_call(queue, state->call));
  }
  // A call may have gone to the old descriptor in between; one too many is legal.
  if (state->call) state->call->signal();
  return {};
}

Result<void> Port::set_queue_err(QueueIndex queue, std::optional<ErrFd> err) {
  CW_TRY(Queue * state, find(queue));
  state->err = std::move(err);
  return {};
}

Result<void> Port::enable_queue(QueueIndex queue, bool enabled) {
  CW_TRY(Queue * state, find(queue));
  state->enabled = enabled;
  if (!state->started || state->failed || is_control(queue)) return {};
  return slots_[state->slot].device->enable_queue(queue, enabled);
}

Result<QueueState> Port::stop_queue(QueueIndex queue, vdpa::StopMode mode) {
  CW_TRY(auto position, end_queue(queue, mode));
  save();
  return position;
}

Result<QueueState> Port::end_queue(QueueIndex queue, vdpa::StopMode mode) {
  CW_TRY(Queue * state, find(queue));
  if (state->started) {
    const bool was_running = !is_control(queue) && !state->failed;
    if (auto position = halt(queue, *state, mode)) {
      state->start = std::move(*position);
    } else {
      log::warn("port {} queue {}: {}; says where it started", name(), number(queue), position.error().text());
    }
    // Stopped for good, not moved: nothing must wait for this queue. Only now, since a disabled queue drops what it
    // has.
    if (was_running) {
      if (auto done = slots_[state->slot].device->enable_queue(queue, false); !done) {
        log::warn("port {} queue {}: {}", name(), number(queue), done.error().text());
      }
    }
  }
  state->kick.reset();
  state->failed = false;
  return start_of(*state);
}

void Port::stop_all() {
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    if (auto stopped = end_queue(QueueIndex{i}, vdpa::StopMode::drain); !stopped) {
      log::warn("port {} queue {}: {}", name(), i, stopped.error().text());
    }
  }
}

Result<virtio::RingConfig> Port::ring_of(QueueIndex queue, const Queue& state) const {
  if (!state.size) return fail(Errc::peer_violation, fmt::format("queue {} starts without a size", number(queue)));
  if (!state.addresses)
    return fail(Errc::peer_violation, fmt::format("queue {} starts without addresses", number(queue)));
  const auto locate = [&](std::uint64_t address, std::string_view area) -> Result<memory::Iova> {
    if (state.addresses->kind == RingAddressKind::guest) return memory::Iova(address);
    const auto iova = memory_->iova_of(memory::FrontendVa(address));
    if (iova) return *iova;
    return fail(Errc::peer_violation, fmt::format("queue {}: {} at front-end address {:#x} is in no memory region",
                                                  number(queue), area, address));
  };
  CW_TRY(const auto descriptors, locate(state.addresses->descriptors, "descriptor table"));
  CW_TRY(const auto available, locate(state.addresses->available, "available ring"));
  CW_TRY(const auto used, locate(state.addresses->used, "used ring"));
  // The layout may have been negotiated after the size was set.
  CW_TRY(const auto size, virtio::QueueSize::make(virtio::layout_of(features_), state.size->entries()));
  virtio::RingConfig ring{.size = size,
                          .descriptors = descriptors,
                          .available = available,
                          .used = used,
                          .features = features_,
                          .start = start_of(state)};
  auto areas = virtio::RingAreas::locate(ring, *memory_);
  if (!areas) return fail(std::move(areas).error().context(fmt::format("queue {}", number(queue))));
  return ring;
}

QueueState Port::start_of(const Queue& state) const {
  return state.start.value_or(QueueState::initial(virtio::layout_of(features_)));
}

void Port::correct_position(QueueIndex queue, virtio::RingConfig& ring) {
  if (!ring.start.in_flight.empty()) return;
  std::uint16_t used = ring.start.used;
  if (ring.layout() == virtio::Layout::split) {
    const auto area = memory_->translate(ring.used, virtio::RingAreaSizes::of(ring.layout(), ring.size).used.bytes);
    if (!area) return;
    used = area->load<std::uint16_t>(virtio::kRingIndex, std::memory_order_acquire);
  }
  if (used == ring.start.avail) return;
  // With nothing known to be in flight the two are equal. DPDK's virtio-user says 0 when its back-end comes back, QEMU
  // what it finds in the ring: the ring is right. What was in flight when the last back-end went is taken again.
  log::info("port {} queue {}: resumes at the ring's used position {}, not at position {}", name(), number(queue), used,
            ring.start.avail);
  ring.start.avail = used;
  ring.start.used = used;
}

Result<void> Port::use_inflight(virtio::InflightRegion region) {
  if (!is_suspended()) return fail(Errc::peer_violation, "in-flight memory cannot change while queues run");
  inflight_ = std::move(region);
  return {};
}

/// True when the record says where the queue resumes.
Result<bool> Port::resume_from_record(QueueIndex queue, Queue& state, virtio::RingConfig& ring) {
  if (!inflight_) return resume_from_kept(queue, state, ring);
  if (is_control(queue)) return false;
  const auto area = inflight_->area(queue, ring.layout(), ring.size);
  if (!area) return false;
  ring.record = std::make_shared<const virtio::InflightArea>(*area);
  auto recorded = virtio::recover(*area, ring, *memory_);
  if (!recorded) return fail(std::move(recorded).error().context(fmt::format("queue {}", number(queue))));
  if (!*recorded) return false;
  run_again(queue, state, **recorded);
  ring.start = std::move(**recorded);
  return true;
}

/// Says which requests a dead back-end has left, unless it was we who have stopped the queue.
void Port::run_again(QueueIndex queue, Queue& state, const QueueState& position) const {
  if (position.in_flight.empty() || (state.start && state.start->in_flight == position.in_flight)) return;
  state.run_again = static_cast<std::uint32_t>(position.in_flight.size());
  log::info("port {} queue {}: runs {} requests again that were in flight", name(), number(queue), state.run_again);
}

void Port::forget_record(QueueIndex queue, const Queue& state) const {
  // The driver starts its rings anew, so that the positions of the old ones mean nothing.
  if (state.kept) state.kept->area(QueueIndex{0}, state.kept->layout(), state.kept->entries())->clear();
  if (!inflight_ || !state.size || (state.start && !state.start->in_flight.empty())) return;
  if (const auto area = inflight_->area(queue, inflight_->layout(), *state.size)) area->clear();
}

Result<void> Port::run(QueueIndex queue, Queue& state) {
  return run_anywhere(queue, state, state.slot, slots_.size() - 1);
}

Result<void> Port::run_on(QueueIndex queue, Queue& state, std::size_t slot) {
  CW_TRY(auto ring, ring_of(queue, state));
  CW_TRY(const bool is_recorded, resume_from_record(queue, state, ring));
  if (!is_recorded) correct_position(queue, ring);
  if (ring.record && !is_control(queue) && !slots_[slot].device->info().can.record_in_flight) {
    // What an earlier Device has written there will soon be wrong.
    ring.record->clear();
    ring.record = nullptr;
  }
  vdpa::QueueSetup setup{.ring = std::move(ring), .kick = state.kick, .call = state.call, .enabled = state.enabled};
  if (is_control(queue)) {
    CW_TRY(control_queue_, ControlQueue::start(
                               loop_, std::move(setup), memory_,
                               [this](std::span<const std::byte> command) { return control(command); },
                               [this, queue](const Error& reason) { fail_queue(queue, reason); }));
  } else {
    if (!slots_[slot].unusable.empty()) return fail(Errc::not_supported, slots_[slot].unusable);
    if (!is_bound(slot) && slot + 1 < slots_.size()) replay_control(slot);
    CW_CHECK(slots_[slot].device->set_queue(queue, std::move(setup)));
    CW_CHECK(slots_[slot].device->enable_queue(queue, state.enabled));
  }
  state.slot = slot;
  state.started = true;
  state.failed = false;
  nudge(state);
  return {};
}

Result<void> Port::run_anywhere(QueueIndex queue, Queue& state, std::size_t first_choice, std::size_t last_resort) {
  auto first = run_on(queue, state, first_choice);
  if (first) return {};
  if (last_resort == first_choice) return first;
  log::warn("port {} queue {}: device {} cannot take it: {}", name(), number(queue),
            slots_[first_choice].device->info().name, first.error().text());
  CW_CHECK(run_on(queue, state, last_resort));
  return {};
}

Result<QueueState> Port::halt(QueueIndex queue, Queue& state, vdpa::StopMode mode) {
  state.started = false;
  if (is_control(queue)) {
    if (!control_queue_) return start_of(state);
    QueueState position = control_queue_->state();
    control_queue_.reset();
    return position;
  }
  auto stopped = slots_[state.slot].device->stop_queue(queue, mode);
  if (stopped) return *stopped;
  log::warn("port {} queue {}: no position from device {}: {}", name(), number(queue),
            slots_[state.slot].device->info().name, stopped.error().text());
  return recover_state(queue, state);
}

Result<QueueState> Port::recover_state(QueueIndex queue, const Queue& state) const {
  const virtio::Layout layout = virtio::layout_of(features_);
  if (!state.size || !state.addresses) return start_of(state);
  const auto area = inflight_ && !is_control(queue) ? inflight_->area(queue, layout, *state.size)
                    : state.kept                    ? state.kept->area(QueueIndex{0}, layout, *state.size)
                                                    : std::nullopt;
  if (area) {
    CW_TRY(const auto ring, ring_of(queue, state));
    auto recorded = virtio::recover(*area, ring, *memory_);
    if (recorded && *recorded) return std::move(**recorded);
    if (!recorded) log::warn("port {} queue {}: {}", name(), number(queue), recorded.error().text());
  }
  if (layout == virtio::Layout::packed) {
    // A used descriptor of several entries leaves the others as they were: where a lap ends cannot be told from them.
    return fail(Errc::gone, "the position in a packed ring went with its device");
  }
  auto used = memory::Iova(state.addresses->used);
  if (state.addresses->kind == RingAddressKind::frontend) {
    used = memory_->iova_of(memory::FrontendVa(state.addresses->used)).value_or(memory::Iova(0));
  }
  const auto ring_used = memory_->translate(used, virtio::RingAreaSizes::of(layout, *state.size).used.bytes);
  QueueState position = start_of(state);
  // What was not used when the Device went is run again by the next one.
  if (ring_used) position.avail = ring_used->fetch<std::uint16_t>(virtio::kRingIndex);
  position.in_flight.clear();
  return position;
}

void Port::nudge(const Queue& state) const {
  // A notification may have been lost while the queue belonged to nobody: one too many is legal, one lost is a hang.
  if (state.kick) state.kick->signal();
  if (state.call) state.call->signal();
}

Result<void> Port::rebind(QueueIndex queue, std::string_view device, Path /*path*/) {
  auto found = find(queue);
  if (!found) return fail(Errc::not_found, std::move(found).error().what);
  Queue& state = **found;
  if (is_control(queue)) {
    return fail(Errc::not_supported,
                fmt::format("queue {} is the control queue, which the port itself serves", number(queue)));
  }
  const auto target =
      std::ranges::find_if(slots_, [&](const Slot& slot) { return slot.device->info().name == device; });
  if (target == slots_.end()) {
    return fail(Errc::not_found, fmt::format("port {} has no device '{}'", name(), device));
  }
  if (!target->unusable.empty()) return fail(Errc::not_supported, target->unusable);
  const auto to = static_cast<std::size_t>(target - slots_.begin());
  const std::size_t from = state.slot;
  if (to == from) return {};
  if (number(queue) >= target->device->info().queues) {
    return fail(Errc::invalid_value,
                fmt::format("device '{}' has only {} queues", device, target->device->info().queues));
  }
  if (!state.started) {
    state.slot = to;
    save();
    return {};
  }
  // One that has failed is still the old Device's; on the new one it has another try.
  auto position = halt(queue, state, vdpa::StopMode::leave);
  if (!position) {
    state.started = true;
    fail_queue(queue, position.error());
    return fail(std::move(position).error());
  }
  state.start = std::move(*position);
  auto moved = run_on(queue, state, to);
  if (moved) {
    ++rebinds_;
    save();
    return {};
  }
  if (auto kept = run_anywhere(queue, state, slots_.size() - 1, from); !kept) {
    state.started = true;
    fail_queue(queue, kept.error());
  }
  return fail(std::move(moved).error().context(
      fmt::format("queue {} stays on device '{}'", number(queue), slots_[state.slot].device->info().name)));
}

void Port::on_queue_failed(std::size_t slot, QueueIndex queue, const Error& reason) {
  if (number(queue) >= queues_.size()) return;
  // The news may be older than a rebind: then the new Device will find the fault by itself.
  const Queue& state = queues_[number(queue)];
  if (state.started && !state.failed && state.slot == slot) fail_queue(queue, reason);
}

void Port::fail_queue(QueueIndex queue, const Error& reason) {
  Queue& state = queues_[number(queue)];
  state.failed = true;
  status_ = status_ | Status::needs_reset;
  if (state.err) state.err->signal();
  if (!log_limit_.allow()) return;
  log::error("port {} queue {}: stopped, needs reset: {}", name(), number(queue), reason.text());
  if (const auto held_back = log_limit_.take_suppressed(); held_back > 0) {
    log::error("port {}: {} more such lines were held back", name(), held_back);
  }
}

/// Where a queue stands whose Device has gone.
Result<QueueState> Port::state_left(std::size_t slot, QueueIndex queue, Queue& state) const {
  auto left = slots_[slot].device->last_state(queue);
  if (!left) return recover_state(queue, state);
  run_again(queue, state, *left);
  return *std::move(left);
}

void Port::on_device_gone(std::size_t slot, const Error& reason) {
  log::error("port {}: device {} is gone: {}", name(), slots_[slot].device->info().name, reason.text());
  slots_[slot].unusable = reason.text();
  const std::size_t next = best_slot();
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    Queue& state = queues_[i];
    if (state.slot != slot) continue;
    if (!state.started || is_control(QueueIndex{i})) {
      state.slot = next;
      continue;
    }
    auto position = state_left(slot, QueueIndex{i}, state);
    if (!position) {
      fail_queue(QueueIndex{i}, position.error());
      continue;
    }
    state.start = std::move(*position);
    if (auto taken = run_anywhere(QueueIndex{i}, state, next, slots_.size() - 1); !taken) {
      fail_queue(QueueIndex{i}, taken.error());
    }
  }
}

void Port::on_config_changed() {
  if (side_ != nullptr) side_->config_changed();
}

}  // namespace causeway::port

// Set-up, start and stop of one queue.

#include "port/port.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

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
    if (auto ring = ring_of(queue, *state); !ring && !is_translated() && !memory_->regions().empty()) {
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
  // What was known before may have changed while nobody said so.
  if (is_suspended()) forget_translations();
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
  if (!state->runs()) return {};
  if (is_control(queue)) {
    control_queue_->set_call(state->call);
  } else if (state->relay) {
    state->relay->set_call(state->call);
  } else {
    CW_CHECK(device_of(*state).set_call(state->bound.queue, state->call));
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
  if (!state->runs() || is_control(queue)) return {};
  auto done = device_of(*state).enable_queue(state->bound.queue, enabled);
  if (done || !enabled || is_on_last(*state)) return done;
  log::warn("port {} queue {}: device {} cannot go on with it: {}", name(), number(queue),
            device_of(*state).info().name, done.error().text());
  CW_TRY(state->start, halt(queue, *state, vdpa::StopMode::leave));
  CW_CHECK(run_on(queue, *state, last_binding(queue)));
  save();
  return {};
}

Result<QueueState> Port::stop_queue(QueueIndex queue, vdpa::StopMode mode) {
  CW_TRY(auto position, end_queue(queue, mode));
  save();
  return position;
}

Result<QueueState> Port::end_queue(QueueIndex queue, vdpa::StopMode mode) {
  CW_TRY(Queue * state, find(queue));
  if (state->started) {
    const bool was_running = !is_control(queue) && state->runs();
    if (auto position = halt(queue, *state, mode)) {
      state->start = std::move(*position);
    } else {
      log::warn("port {} queue {}: {}; says where it started", name(), number(queue), position.error().text());
    }
    // Stopped for good, not moved: nothing must wait for this queue. Only now, since a disabled queue drops what it
    // has.
    if (was_running && mode == vdpa::StopMode::drain) {
      if (auto done = device_of(*state).enable_queue(state->bound.queue, false); !done) {
        log::warn("port {} queue {}: {}", name(), number(queue), done.error().text());
      }
    }
  }
  state->kick.reset();
  state->failed = false;
  if (is_suspended()) forget_translations();
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
  CW_TRY(auto ring, place_of(queue, state));
  auto areas = virtio::RingAreas::locate(ring, *ring_map());
  if (!areas) return fail(std::move(areas).error().context(fmt::format("queue {}", number(queue))));
  return ring;
}

/// The ring as the driver side has described it, wherever that leads.
Result<virtio::RingConfig> Port::place_of(QueueIndex queue, const Queue& state) const {
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
  return virtio::RingConfig{.size = size,
                            .descriptors = descriptors,
                            .available = available,
                            .used = used,
                            .features = features_,
                            .start = start_of(state)};
}

Result<void> Port::run(QueueIndex queue, Queue& state) {
  return run_anywhere(queue, state, state.bound, last_binding(queue));
}

Result<void> Port::run_on(QueueIndex queue, Queue& state, Binding to) {
  state.waits = false;  // one that fails waits for nothing
  state.lacks.clear();
  if (is_translated()) {
    CW_TRY(state.waits, awaits_ring(queue, state));
    if (state.waits) {
      state.bound = to;
      state.started = true;
      state.failed = false;
      return {};
    }
  }
  CW_TRY(auto ring, ring_of(queue, state));
  const bool is_as_before = std::exchange(state.is_as_before, false);
  CW_TRY(bool is_recorded, resume_from_record(queue, state, ring));
  if (!is_recorded && is_as_before && !is_control(queue)) is_recorded = resume_from_device(queue, state, to, ring);
  if (!is_recorded) correct_position(queue, ring);
  ring.log = log_;
  vdpa::QueueSetup setup{.ring = std::move(ring), .kick = state.kick, .call = state.call, .enabled = state.enabled};
  if (is_control(queue)) {
    CW_TRY(control_queue_, ControlQueue::start(
                               loop_, std::move(setup), memory_,
                               [this](std::span<const std::byte> command) { return control(command); },
                               [this, queue](const Error& reason) { fail_queue(queue, reason); }));
  } else {
    if (!slots_[to.slot].is_usable()) return fail(Errc::not_supported, slots_[to.slot].why_not());
    if (!is_bound(to.slot) && to.slot + 1 < slots_.size()) replay_control(to.slot);
    CW_CHECK(start_on(queue, state, to, setup));
  }
  state.bound = to;
  state.started = true;
  state.failed = false;
  notify_both(state);
  offer_bypass(queue, state);
  return {};
}

Result<void> Port::run_anywhere(QueueIndex queue, Queue& state, Binding first_choice, Binding last_resort) {
  auto first = run_on(queue, state, first_choice);
  if (first) return {};
  if (last_resort == first_choice) return first;
  log::warn("port {} queue {}: device {} cannot take it: {}", name(), number(queue),
            slots_[first_choice.slot].device->info().name, first.error().text());
  CW_CHECK(run_on(queue, state, last_resort));
  return {};
}

Result<QueueState> Port::halt(QueueIndex queue, Queue& state, vdpa::StopMode mode) {
  withdraw_bypass(queue, state);
  state.started = false;
  if (std::exchange(state.waits, false)) return start_of(state);
  if (is_control(queue)) {
    if (!control_queue_) return start_of(state);
    QueueState position = control_queue_->state();
    control_queue_.reset();
    return position;
  }
  if (state.relay) return stop_relay(state, mode);
  auto stopped = device_of(state).stop_queue(state.bound.queue, mode);
  if (stopped) return *stopped;
  log::warn("port {} queue {}: no position from device {}: {}", name(), number(queue), device_of(state).info().name,
            stopped.error().text());
  return recover_state(queue, state);
}

void Port::notify_both(const Queue& state) const {
  // A notification may have been lost while the queue belonged to nobody: one too many is legal, one lost is a hang.
  if (state.kick) state.kick->signal();
  if (state.call) state.call->signal();
}

}  // namespace causeway::port

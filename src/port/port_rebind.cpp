// Queues move to another Device because somebody wishes it; and queues that fail.

#include "port/port.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::port {

Result<void> Port::rebind(QueueIndex queue, std::string_view device, RebindWish wish) {
  auto found = find(queue);
  if (!found) return fail(Errc::not_found, std::move(found).error().what);
  Queue& state = **found;
  if (is_control(queue)) {
    return fail(Errc::not_supported,
                fmt::format("queue {} is the control queue, which the port itself serves", number(queue)));
  }
  const auto slot = find_slot(device);
  if (!slot) return fail(Errc::not_found, fmt::format("port {} has no device '{}'", name(), device));
  if (!slots_[*slot].is_usable()) return fail(Errc::not_supported, slots_[*slot].why_not());
  const Binding to{.slot = *slot, .queue = wish.device_queue.value_or(queue), .path = wish.path};
  CW_CHECK(check_place(queue, to));
  if (state.started && (!to.has_same_place(state.bound) || to.path.value_or(path_of(state)) != path_of(state))) {
    CW_CHECK(move(queue, state, to));
    ++rebinds_;
  }
  state.bound = to;
  state.wanted = to;
  save();
  return {};
}

/// Whether the operator may name it.
Result<void> Port::check_place(QueueIndex queue, const Binding& to) const {
  const vdpa::DeviceInfo& device = slots_[to.slot].device->info();
  if (!has_queue(to.slot, to.queue)) {
    return fail(Errc::invalid_value, fmt::format("device '{}' has only {} queues", device.name, device.queues));
  }
  if (number(to.queue) % device.queues_per_unit != number(queue) % device.queues_per_unit) {
    return fail(Errc::invalid_value, fmt::format("queue {} of device '{}' is of the other direction than queue {}",
                                                 number(to.queue), device.name, number(queue)));
  }
  if (to.slot + 1 == slots_.size() && to.queue != queue) {
    return fail(Errc::invalid_value, fmt::format("device '{}' is the last, which takes over for all the others: there "
                                                 "each queue has its own number",
                                                 device.name));
  }
  if (is_free(to, queue)) return {};
  return fail(Errc::busy, fmt::format("queue {} of device '{}' belongs to another queue of the port, which must be "
                                      "bound elsewhere first",
                                      number(to.queue), device.name));
}

Result<bool> Port::borrow(QueueIndex queue) {
  CW_TRY(Queue * state, find(queue));
  if (!state->runs()) return fail(Errc::gone, fmt::format("queue {} does not run", number(queue)));
  if (is_on_last(*state)) return false;
  const vdpa::DeviceInfo& device = device_of(*state).info();
  if (!device.can.reports_state && config_.relay_worker == nullptr) {
    return fail(Errc::not_supported, fmt::format("queue {}: device '{}' could not go on with it, since it has no ring "
                                                 "state; rebind the queue for as long as it is needed",
                                                 number(queue), device.name));
  }
  CW_CHECK(move(queue, *state, last_binding(queue)));
  return true;
}

Result<void> Port::give_back(QueueIndex queue) {
  CW_TRY(Queue * state, find(queue));
  const Binding to = choose_binding(queue);
  if (state->started && !state->failed && !to.has_same_place(state->bound)) return move(queue, *state, to);
  if (!state->started) state->bound = to;
  return {};
}

/// Moves a queue that runs.
Result<void> Port::move(QueueIndex queue, Queue& state, Binding to) {
  const Binding from = state.bound;
  // One that has failed is still the old Device's; on the new one it has another try.
  auto position = halt(queue, state, vdpa::StopMode::leave);
  if (!position) {
    state.started = true;
    fail_queue(queue, position.error());
    return fail(std::move(position).error());
  }
  state.start = std::move(*position);
  auto moved = run_on(queue, state, to);
  if (moved) return {};
  if (auto kept = run_anywhere(queue, state, last_binding(queue), from); !kept) {
    state.started = true;
    fail_queue(queue, kept.error());
  }
  return fail(std::move(moved).error().context(
      fmt::format("queue {} stays on device '{}'", number(queue), device_of(state).info().name)));
}

void Port::on_queue_failed(std::size_t slot, QueueIndex device_queue, const Error& reason) {
  // The news may be older than a rebind: then the new Device will find the fault by itself.
  const Queue* const state = find_bound(slot, device_queue);
  if (state != nullptr && !state->failed) fail_queue(index_of(*state), reason);
}

void Port::fail_queue(QueueIndex queue, const Error& reason) {
  Queue& state = queues_[number(queue)];
  withdraw_bypass(queue, state);
  state.failed = true;
  status_ = status_ | Status::needs_reset;
  if (state.err) state.err->signal();
  if (!log_limit_.allow()) return;
  log::error("port {} queue {}: stopped, needs reset: {}", name(), number(queue), reason.text());
  if (const auto held_back = log_limit_.take_suppressed(); held_back > 0) {
    log::error("port {}: {} more such lines were held back", name(), held_back);
  }
}

void Port::on_config_changed() {
  if (side_ != nullptr) side_->config_changed();
}

}  // namespace causeway::port

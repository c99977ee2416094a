// Queues move to another Device: because somebody wishes it, or because theirs has gone; and queues that fail.

#include "port/port.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::port {

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
  withdraw_doorbell(queue, state);
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
  note_run_again(queue, state, *left);
  return *std::move(left);
}

void Port::on_device_gone(std::size_t slot, const Error& reason) {
  log::error("port {}: device {} is gone: {}", name(), slots_[slot].device->info().name, reason.text());
  slots_[slot].unusable = reason.text();
  const std::size_t next = best_slot();
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    Queue& state = queues_[i];
    if (state.slot != slot) continue;
    withdraw_doorbell(QueueIndex{i}, state);
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

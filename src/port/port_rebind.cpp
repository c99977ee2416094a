// Queues move to another Device because somebody wishes it; and queues that fail.

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
  if (!target->is_usable()) return fail(Errc::not_supported, target->why_not());
  const auto to = static_cast<std::size_t>(target - slots_.begin());
  if (!has_queue(to, queue)) {
    return fail(Errc::invalid_value,
                fmt::format("device '{}' has only {} queues", device, target->device->info().queues));
  }
  if (state.started && to != state.slot) {
    CW_CHECK(move(queue, state, to));
    ++rebinds_;
  }
  state.slot = to;
  state.preferred = to;
  save();
  return {};
}

/// Moves a queue that runs.
Result<void> Port::move(QueueIndex queue, Queue& state, std::size_t to) {
  const std::size_t from = state.slot;
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

void Port::on_config_changed() {
  if (side_ != nullptr) side_->config_changed();
}

}  // namespace causeway::port

// Devices that cannot be used, and those that can be used again: where queues go meanwhile, and when they come back.

#include "port/port.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace causeway::port {

const std::string& Port::Slot::why_not() const {
  for (const std::string* reason : {&gone, &features, &settings}) {
    if (!reason->empty()) return *reason;
  }
  return memory;
}

bool Port::has_queue(std::size_t slot, QueueIndex queue) const {
  return number(queue) < slots_[slot].device->info().queues;
}

/// Where the queue belongs as things are now.
std::size_t Port::choose_slot(QueueIndex queue) const {
  const auto can = [&](std::size_t slot) { return slots_[slot].is_usable() && has_queue(slot, queue); };
  if (const std::size_t preferred = queues_[number(queue)].preferred; can(preferred)) return preferred;
  std::size_t slot = 0;
  while (slot + 1 < slots_.size() && !can(slot)) ++slot;
  return slot;
}

void Port::make_unusable(std::size_t slot, std::string Slot::* reason, const Error& error) {
  const bool is_news = slots_[slot].is_usable();
  slots_[slot].*reason = error.text();
  if (!is_news) return;
  log::warn("port {}: device {} cannot be used: {}", name(), slots_[slot].device->info().name, error.text());
  move_off(slot, true);
}

/// Where a queue stands whose Device has gone.
Result<QueueState> Port::state_left(std::size_t slot, QueueIndex queue, Queue& state) const {
  auto left = slots_[slot].device->last_state(queue);
  if (!left) return recover_state(queue, state);
  note_run_again(queue, state, *left);
  return *std::move(left);
}

/// Takes all queues from a Device that can be used no longer. `is_there`: it can still stop them.
void Port::move_off(std::size_t slot, bool is_there) {
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    Queue& state = queues_[i];
    if (state.slot != slot) continue;
    const QueueIndex queue{i};
    withdraw_doorbell(queue, state);
    const std::size_t next = choose_slot(queue);
    if (config_.failback == Failback::manual) state.preferred = next;
    if (!state.started || is_control(queue)) {
      state.slot = next;
      continue;
    }
    auto position = is_there ? halt(queue, state, vdpa::StopMode::leave) : state_left(slot, queue, state);
    state.started = true;
    if (!position) {
      fail_queue(queue, position.error());
      continue;
    }
    state.start = std::move(*position);
    if (auto taken = run_anywhere(queue, state, next, slots_.size() - 1); !taken) {
      fail_queue(queue, taken.error());
      continue;
    }
    log::info("port {} queue {}: goes on on device {}", name(), i, slots_[state.slot].device->info().name);
  }
  save();
}

void Port::on_device_gone(std::size_t slot, const Error& reason) {
  Slot& lost = slots_[slot];
  if (!lost.gone.empty()) return;
  log::error("port {}: device {} is gone: {}", name(), lost.device->info().name, reason.text());
  lost.gone = reason.text();
  lost.features.clear();
  lost.settings.clear();
  lost.memory.clear();
  move_off(slot, false);
}

void Port::on_device_back(std::size_t slot) {
  Slot& found = slots_[slot];
  if (found.gone.empty()) return;
  found.gone.clear();
  bring_up(found);
  const std::string& device = found.device->info().name;
  if (!found.is_usable()) {
    log::warn("port {}: device {} is back, but cannot be used: {}", name(), device, found.why_not());
    return;
  }
  log::info(
      "port {}: device {} is back{}", name(), device,
      config_.failback == Failback::manual ? "; queues that left it stay where they are until they are rebound" : "");
  fail_back(slot);
}

/// Tells a Device that knows nothing what the others know.
void Port::bring_up(Slot& slot) const {
  vdpa::Device& device = *slot.device;
  if (const auto& regions = memory_->regions(); !regions.empty()) {
    if (auto mapped = device.map(regions); !mapped) slot.memory = mapped.error().text();
  }
  if (side_ == nullptr) return;
  auto told = device.set_features(features_);
  if (!told) {
    slot.features = told.error().text();
    return;
  }
  told = repeat_settings(device);
  if (!told) slot.settings = told.error().text();
}

Result<void> Port::repeat_settings(vdpa::Device& device) const {
  for (const auto& [offset, value] : config_written_) CW_CHECK(device.write_config(offset, std::span(&value, 1)));
  if (mtu_) CW_CHECK(device.set_mtu(*mtu_));
  // What is wrong with a queue elsewhere is not this Device's.
  const auto status = static_cast<Status>(static_cast<unsigned>(status_) & ~static_cast<unsigned>(Status::needs_reset));
  return status == Status::reset ? Result<void>() : device.set_status(status);
}

/// Takes the queues back to a Device that can be used again, as far as they belong there.
void Port::fail_back(std::size_t slot) {
  const std::string& device = slots_[slot].device->info().name;
  std::vector<unsigned> moved;
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    Queue& state = queues_[i];
    const QueueIndex queue{i};
    if (state.preferred != slot || state.slot == slot || state.failed || is_control(queue)) continue;
    if (!state.started) {
      state.slot = slot;
    } else if (auto done = move(queue, state, slot); done) {
      moved.push_back(i);
    } else {
      log::warn("port {}: device {} can be used again, but: {}", name(), device, done.error().text());
    }
  }
  if (!moved.empty()) log::info("port {}: queues {} are back on device {}", name(), fmt::join(moved, ", "), device);
  save();
}

}  // namespace causeway::port

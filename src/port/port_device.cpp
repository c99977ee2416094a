// Devices that cannot be used, and those that can be used again: where queues go meanwhile, and when they come back.

#include "port/port.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

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

std::optional<std::size_t> Port::find_slot(std::string_view device) const {
  const auto found = std::ranges::find_if(slots_, [&](const Slot& slot) { return slot.device->info().name == device; });
  if (found == slots_.end()) return std::nullopt;
  return static_cast<std::size_t>(found - slots_.begin());
}

/// Whether no other queue has that place, or wants it.
bool Port::is_free(const Binding& place, QueueIndex queue) const {
  return std::ranges::none_of(queues_, [&](const Queue& other) {
    const QueueIndex index = index_of(other);
    return index != queue && !is_control(index) &&
           (other.bound.has_same_place(place) || other.wanted.has_same_place(place));
  });
}

/// Where the queue belongs as things are now.
Port::Binding Port::choose_binding(QueueIndex queue) const {
  const auto can = [&](const Binding& place) {
    return slots_[place.slot].is_usable() && has_queue(place.slot, place.queue) && is_free(place, queue);
  };
  if (const Binding& wanted = queues_[number(queue)].wanted; can(wanted)) return wanted;
  Binding place{.slot = 0, .queue = queue};
  while (place.slot + 1 < slots_.size() && !can(place)) ++place.slot;
  return place;
}

/// At the start, when nobody has chosen and no Device has said yet that it cannot be used.
void Port::bind_as_configured() {
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    std::size_t slot = 0;
    while (slot + 1 < slots_.size() && !has_queue(slot, QueueIndex{i})) ++slot;
    queues_[i].bound = queues_[i].wanted = {.slot = slot, .queue = QueueIndex{i}};
  }
  const vdpa::DeviceInfo& last = info();
  const std::size_t named = std::min<std::size_t>(last.queues, config_.bindings.size() * last.queues_per_unit);
  for (std::uint16_t i = 0; i < named; ++i) {
    const std::string& device = config_.bindings[i / last.queues_per_unit];
    Queue& state = queues_[i];
    state.wanted.slot = *find_slot(device);
    state.bound = choose_binding(QueueIndex{i});
    if (state.bound.has_same_place(state.wanted)) continue;
    log::warn("port {}: device {} has no queue {}, which begins on {}", name(), device, i,
              device_of(state).info().name);
  }
  if (named != 0) return;
  for (const Slot& slot : slots_) {
    const vdpa::DeviceInfo& own = slot.device->info();
    if (own.queues >= last.queues) continue;
    log::info("port {}: device {} has {} queues of {}; the others begin on the next device", name(), own.name,
              own.queues, last.queues);
  }
}

Port::Queue* Port::find_bound(std::size_t slot, QueueIndex device_queue) {
  const auto found = std::ranges::find_if(queues_, [&](const Queue& state) {
    return state.started && state.bound.slot == slot && state.bound.queue == device_queue;
  });
  return found == queues_.end() ? nullptr : &*found;
}

void Port::make_unusable(std::size_t slot, std::string Slot::* reason, const Error& error) {
  const bool is_news = slots_[slot].is_usable();
  slots_[slot].*reason = error.text();
  if (!is_news) return;
  log::warn("port {}: device {} cannot be used: {}", name(), slots_[slot].device->info().name, error.text());
  move_off(slot, true);
}

/// Where a queue stands whose Device has gone.
Result<QueueState> Port::state_left(QueueIndex queue, Queue& state) {
  if (std::exchange(state.waits, false)) return start_of(state);
  if (state.relay) return take_relay(state)->abandon();
  auto left = device_of(state).last_state(state.bound.queue);
  if (!left) return recover_state(queue, state);
  note_run_again(queue, state, *left);
  return *std::move(left);
}

/// Takes all queues from a Device that can be used no longer. `is_there`: it can still stop them.
void Port::move_off(std::size_t slot, bool is_there) {
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    Queue& state = queues_[i];
    if (state.bound.slot != slot) continue;
    const QueueIndex queue{i};
    withdraw_bypass(queue, state);
    const Binding next = choose_binding(queue);
    if (config_.failback == Failback::manual) state.wanted = next;
    if (!state.started || is_control(queue)) {
      state.bound = next;
      continue;
    }
    auto position = is_there ? halt(queue, state, vdpa::StopMode::leave) : state_left(queue, state);
    state.started = true;
    if (!position) {
      fail_queue(queue, position.error());
      continue;
    }
    state.start = std::move(*position);
    if (auto taken = run_anywhere(queue, state, next, last_binding(queue)); !taken) {
      fail_queue(queue, taken.error());
      continue;
    }
    log::info("port {} queue {}: goes on on device {}", name(), i, device_of(state).info().name);
  }
  save();
}

void Port::on_device_gone(std::size_t slot, const Error& reason) {
  Slot& lost = slots_[slot];
  if (!lost.gone.empty()) return;
  log::error("port {}: device {} is gone: {}", name(), lost.device->info().name, reason.text());
  lost.gone = reason.text();
  lost.features.clear();
  lost.without_ring.reset();
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
  auto told = tell_features(slot, features_);
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
    if (state.wanted.slot != slot || state.bound.slot == slot || state.failed || is_control(queue)) continue;
    if (!has_queue(slot, state.wanted.queue)) continue;
    if (!state.started) {
      state.bound = state.wanted;
    } else if (auto done = move(queue, state, state.wanted); done) {
      moved.push_back(i);
    } else {
      log::warn("port {}: device {} can be used again, but: {}", name(), device, done.error().text());
    }
  }
  if (!moved.empty()) log::info("port {}: queues {} are back on device {}", name(), fmt::join(moved, ", "), device);
  save();
}

}  // namespace causeway::port

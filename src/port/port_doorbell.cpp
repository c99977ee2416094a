// What lets a queue go past us: doorbells, so that it need not be kicked through us, and the VFIO groups of functions
// that interrupt for it.

#include "port/port.h"

#include <utility>

namespace causeway::port {

std::string_view name_of(Doorbell doorbell) {
  switch (doorbell) {
    case Doorbell::none:
      return "none";
    case Doorbell::offered:
      return "offered";
    case Doorbell::accepted:
      return "accepted";
    case Doorbell::refused:
      return "refused";
  }
  return "unknown";
}

void Port::offer_bypass(QueueIndex queue, Queue& state) {
  offer_doorbell(queue, state);
  offer_vfio_group(queue, state);
}

void Port::withdraw_bypass(QueueIndex queue, Queue& state) {
  withdraw_doorbell(queue, state);
  withdraw_vfio_group(queue, state);
}

void Port::offer_doorbell(QueueIndex queue, Queue& state) {
  if (side_ == nullptr || is_control(queue) || state.relay) return;
  const auto area = device_of(state).notify_area(state.bound.queue);
  if (!area) return;
  state.has_offered_doorbell = true;
  side_->offer_notify_area(queue, *area);
}

void Port::withdraw_doorbell(QueueIndex queue, Queue& state) {
  if (!std::exchange(state.has_offered_doorbell, false)) return;
  if (side_ != nullptr) side_->withdraw_notify_area(queue);
}

void Port::offer_vfio_group(QueueIndex queue, Queue& state) {
  // A relayed queue is interrupted for by us.
  if (side_ == nullptr || is_control(queue) || state.relay) return;
  const OwnedFd* const group = device_of(state).vfio_group(state.bound.queue);
  if (group == nullptr) return;
  state.has_offered_vfio_group = true;
  side_->offer_vfio_group(queue, *group);
}

void Port::withdraw_vfio_group(QueueIndex queue, Queue& state) {
  if (!std::exchange(state.has_offered_vfio_group, false)) return;
  if (side_ != nullptr) side_->withdraw_vfio_group(queue);
}

void Port::on_notify_area_changed(std::size_t slot, QueueIndex device_queue) {
  Queue* const state = find_bound(slot, device_queue);
  if (state == nullptr || !state->runs()) return;
  if (state->relay) {
    state->relay->renew_doorbell();
    return;
  }
  withdraw_doorbell(index_of(*state), *state);
  offer_doorbell(index_of(*state), *state);
}

void Port::on_vfio_group_changed(std::size_t slot, QueueIndex device_queue) {
  Queue* const state = find_bound(slot, device_queue);
  if (state == nullptr || !state->runs()) return;
  withdraw_vfio_group(index_of(*state), *state);
  offer_vfio_group(index_of(*state), *state);
}

void Port::nudge(QueueIndex queue) {
  if (number(queue) >= queues_.size()) return;
  const Queue& state = queues_[number(queue)];
  if (state.started && state.kick) state.kick->signal();
}

}  // namespace causeway::port

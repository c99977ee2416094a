// Doorbells: a queue whose Device has one need not be kicked through us.

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

void Port::offer_doorbell(QueueIndex queue, Queue& state) {
  if (side_ == nullptr || is_control(queue)) return;
  const auto area = slots_[state.slot].device->notify_area(queue);
  if (!area) return;
  state.has_offered_doorbell = true;
  side_->offer_notify_area(queue, *area);
}

void Port::withdraw_doorbell(QueueIndex queue, Queue& state) {
  if (!std::exchange(state.has_offered_doorbell, false)) return;
  if (side_ != nullptr) side_->withdraw_notify_area(queue);
}

void Port::on_notify_area_changed(std::size_t slot, QueueIndex queue) {
  if (number(queue) >= queues_.size()) return;
  Queue& state = queues_[number(queue)];
  if (!state.started || state.failed || state.slot != slot) return;
  withdraw_doorbell(queue, state);
  offer_doorbell(queue, state);
}

void Port::nudge(QueueIndex queue) {
  if (number(queue) >= queues_.size()) return;
  const Queue& state = queues_[number(queue)];
  if (state.started && state.kick) state.kick->signal();
}

}  // namespace causeway::port

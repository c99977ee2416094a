// The log of written pages, for a live migration.

#include "base/log.h"
#include "port/port.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::port {

Result<void> Port::set_log(std::shared_ptr<const memory::DirtyLog> log) {
  if (log && !can_log()) {
    return fail(Errc::not_supported, fmt::format("port {} has no worker that could relay and log", name()));
  }
  if (log && !log->covers(*memory_)) {
    return fail(Errc::peer_violation, "the log of written pages is too small for the guest's memory");
  }
  if (log == log_) return {};
  log_ = std::move(log);
  if (control_queue_) control_queue_->set_log(log_);
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    Queue& state = queues_[i];
    const QueueIndex queue{i};
    if (!state.runs() || is_control(queue)) continue;
    // A relay keeps the log that it has begun with.
    if (!state.relay && !needs_relay(state.bound)) continue;
    if (auto moved = move(queue, state, state.bound); !moved) {
      log::warn("port {}: {}", name(), moved.error().text());
    }
  }
  log::info("port {}: written pages are {}", name(), log_ ? "logged" : "no longer logged");
  save();
  return {};
}

}  // namespace causeway::port

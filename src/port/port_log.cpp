// The log of written pages, for a live migration.

#include "base/log.h"
#include "port/port.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::port {

bool Port::can_log() const {
  return config_.relay_worker != nullptr ||
         std::ranges::all_of(slots_, [](const Slot& slot) { return slot.device->info().can.logs_dirty; });
}

Result<void> Port::set_log(std::shared_ptr<const memory::DirtyLog> log) {
  if (log && !can_log()) {
    return fail(
        Errc::not_supported,
        fmt::format("port {}: not all of its devices log what they write, and it has no worker that could relay",
                    name()));
  }
  if (log && !log->covers(*memory_)) {
    return fail(Errc::peer_violation, "the log of written pages is too small for the guest's memory");
  }
  if (log == log_) return {};
  log_ = std::move(log);
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    Queue& state = queues_[i];
    // Whoever works a queue keeps the log that it has begun with.
    if (!state.runs()) continue;
    if (auto moved = move(QueueIndex{i}, state, state.bound); !moved) {
      log::warn("port {}: {}", name(), moved.error().text());
    }
  }
  log::info("port {}: written pages are {}", name(), log_ ? "logged" : "no longer logged");
  save();
  return {};
}

}  // namespace causeway::port

// Where a queue resumes: from what the driver side says, from the ring, and from the records of what is in flight.

#include "port/port.h"

#include <fmt/format.h>

namespace causeway::port {
namespace {

std::string queue_name(const std::string& port, QueueIndex queue) {
  return fmt::format("{}.queue{}", port, number(queue));
}

}  // namespace

QueueState Port::start_of(const Queue& state) const {
  return state.start.value_or(QueueState::initial(virtio::layout_of(features_)));
}

void Port::correct_position(QueueIndex queue, virtio::RingConfig& ring) {
  if (!ring.start.in_flight.empty()) return;
  std::uint16_t used = ring.start.used;
  if (ring.layout() == virtio::Layout::split) {
    const auto area = ring_map()->translate(ring.used, virtio::kRingEntries);
    if (!area) return;
    used = area->load<std::uint16_t>(virtio::kRingIndex, std::memory_order_acquire);
  }
  if (used == ring.start.avail) return;
  // With nothing known to be in flight the two are equal. DPDK's virtio-user says 0 when its back-end comes back, QEMU
  // what it finds in the ring: the ring is right. What was in flight when the last back-end went is taken again.
  log::info("port {} queue {}: resumes at the ring's used position {}, not at position {}", name(), number(queue), used,
            ring.start.avail);
  ring.start.avail = used;
  ring.start.used = used;
}

Result<void> Port::use_inflight(virtio::InflightRegion region) {
  if (!is_suspended()) return fail(Errc::peer_violation, "in-flight memory cannot change while queues run");
  inflight_ = std::move(region);
  return {};
}

/// True when the record says where the queue resumes.
Result<bool> Port::resume_from_record(QueueIndex queue, Queue& state, virtio::RingConfig& ring) {
  if (!inflight_) return resume_from_kept(queue, state, ring);
  if (is_control(queue)) return false;
  const auto area = inflight_->area(queue, ring.layout(), ring.size);
  if (!area) return false;
  ring.record = std::make_shared<const virtio::InflightArea>(*area);
  auto recorded = virtio::recover(*area, ring, *ring_map());
  if (!recorded) return fail(std::move(recorded).error().context(fmt::format("queue {}", number(queue))));
  if (!*recorded) return false;
  note_run_again(queue, state, **recorded);
  ring.start = std::move(**recorded);
  return true;
}

/// Says which requests a dead back-end has left, unless it was we who have stopped the queue.
void Port::note_run_again(QueueIndex queue, Queue& state, const QueueState& position) const {
  if (position.in_flight.empty() || (state.start && state.start->in_flight == position.in_flight)) return;
  state.run_again = static_cast<std::uint32_t>(position.in_flight.size());
  log::info("port {} queue {}: runs {} requests again that were in flight", name(), number(queue), state.run_again);
}

/// Memory of ours in which the Device records what is in flight.
std::optional<virtio::InflightArea> Port::kept_area(QueueIndex queue, Queue& state, virtio::Layout layout,
                                                    virtio::QueueSize size) {
  if (state.kept && (state.kept->layout() != layout || state.kept->entries() != size)) state.kept.reset();
  if (!state.kept) {
    const std::uint64_t bytes = virtio::InflightRegion::full_size(layout, 1, size);
    auto region = [&]() -> Result<virtio::InflightRegion> {
      CW_TRY(auto file, config_.state->open_file(queue_name(name(), queue), bytes));
      return virtio::InflightRegion::adopt(layout, 1, size, std::move(file), 0, bytes);
    }();
    if (!region) {
      if (log_limit_.allow()) {
        log::error("port {} queue {}: what is in flight is not kept: {}", name(), number(queue), region.error().text());
      }
      return std::nullopt;
    }
    state.kept.emplace(std::move(*region));
  }
  return state.kept->area(QueueIndex{0}, layout, size);
}

bool Port::resume_from_kept(QueueIndex queue, Queue& state, virtio::RingConfig& ring) {
  if (!config_.state) return false;
  const auto area = kept_area(queue, state, ring.layout(), ring.size);
  if (!area) return false;
  ring.record = std::make_shared<const virtio::InflightArea>(*area);
  if (!std::exchange(state.resumes, false)) return false;
  // The driver may have been reset while nobody was here: then its rings lie where they lay, and are new.
  if (ring.layout() == virtio::Layout::packed && !virtio::has_been_used(ring, *ring_map())) return false;
  auto recorded = virtio::recover(*area, ring, *ring_map());
  if (!recorded) {
    log::warn("port {} queue {}: {}; resumes where the driver side says", name(), number(queue),
              recorded.error().text());
    return false;
  }
  if (!*recorded) return false;
  note_run_again(queue, state, **recorded);
  state.start = **recorded;
  ring.start = std::move(**recorded);
  return true;
}

/// The Device has worked the ring for a process of ours that died. Of a split ring the used index says as much.
bool Port::resume_from_device(QueueIndex queue, Queue& state, const Binding& to, virtio::RingConfig& ring) {
  if (ring.layout() == virtio::Layout::split || !virtio::has_been_used(ring, *ring_map())) return false;
  const Slot& slot = slots_[to.slot];
  if (!slot.is_usable() || slot.without_ring) return false;
  auto recorded = slot.device->former_state(to.queue, ring);
  if (!recorded) return false;
  log::info("port {} queue {}: resumes where device {} has left it", name(), number(queue), slot.device->info().name);
  note_run_again(queue, state, *recorded);
  state.start = *recorded;
  ring.start = *std::move(recorded);
  return true;
}

void Port::forget_record(QueueIndex queue, const Queue& state) const {
  // The driver starts its rings anew, so that the positions of the old ones mean nothing.
  if (state.kept) state.kept->area(QueueIndex{0}, state.kept->layout(), state.kept->entries())->clear();
  if (!inflight_ || !state.size || (state.start && !state.start->in_flight.empty())) return;
  if (const auto area = inflight_->area(queue, inflight_->layout(), *state.size)) area->clear();
}

Result<QueueState> Port::recover_state(QueueIndex queue, const Queue& state) const {
  const virtio::Layout layout = virtio::layout_of(features_);
  if (!state.size || !state.addresses) return start_of(state);
  const auto area = inflight_ && !is_control(queue) ? inflight_->area(queue, layout, *state.size)
                    : state.kept                    ? state.kept->area(QueueIndex{0}, layout, *state.size)
                                                    : std::nullopt;
  if (area) {
    CW_TRY(const auto ring, ring_of(queue, state));
    auto recorded = virtio::recover(*area, ring, *ring_map());
    if (recorded && *recorded) return std::move(**recorded);
    if (!recorded) log::warn("port {} queue {}: {}", name(), number(queue), recorded.error().text());
  }
  if (layout == virtio::Layout::packed) {
    // A used descriptor of several entries leaves the others as they were: where a lap ends cannot be told from them.
    return fail(Errc::gone, "the position in a packed ring went with its device");
  }
  auto used = memory::Iova(state.addresses->used);
  if (state.addresses->kind == RingAddressKind::frontend) {
    used = memory_->iova_of(memory::FrontendVa(state.addresses->used)).value_or(memory::Iova(0));
  }
  const auto ring_used = ring_map()->translate(used, virtio::kRingEntries);
  QueueState position = start_of(state);
  // What was not used when the Device went is run again by the next one.
  if (ring_used) position.avail = ring_used->fetch<std::uint16_t>(virtio::kRingIndex);
  position.in_flight.clear();
  return position;
}

}  // namespace causeway::port

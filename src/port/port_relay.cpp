// By which path a Device works a queue.

#include "base/log.h"
#include "port/port.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::port {
namespace {

using virtio::Feature;

/// What concerns the ring alone, so that a relay can do without it on the Device's side.
constexpr FeatureSet kRingFeatures{Feature::indirect_desc, Feature::event_idx, Feature::ring_packed, Feature::in_order,
                                   Feature::access_platform};

/// The highest place where a Device of any address range is shown memory of ours.
constexpr std::uint64_t kHighestIova = (1ULL << 48) - 1;

}  // namespace

/// Tells a Device what was negotiated, or what is left of it without those features of the ring's that it lacks.
Result<void> Port::tell_features(Slot& slot, FeatureSet features) const {
  slot.without_ring.reset();
  auto taken = slot.device->set_features(features);
  const FeatureSet less = features.minus(kRingFeatures.minus(slot.device->info().features));
  if (taken || config_.relay_worker == nullptr || less == features) return taken;
  if (!slot.device->set_features(less)) return taken;
  slot.without_ring = less;
  log::info("port {}: device {} lacks {}; its queues are relayed", name(), slot.device->info().name,
            virtio::text(info().type, features.minus(less)));
  return {};
}

/// The path that a queue has, or will have when it starts as things are.
Path Port::path_of(const Queue& state) const {
  const bool relays = state.started ? state.relay != nullptr : needs_relay(state.bound);
  return relays ? Path::relay : Path::direct;
}

bool Port::needs_relay(const Binding& to) const {
  const Slot& slot = slots_[to.slot];
  return to.path == Path::relay || slot.without_ring || (is_translated() && !slot.device->translates(to.queue)) ||
         (log_ && !slot.device->info().can.logs_dirty);
}

/// Starts a queue on a Device, directly or by relay.
Result<void> Port::start_on(QueueIndex queue, Queue& state, const Binding& to, const vdpa::QueueSetup& setup) {
  const Slot& slot = slots_[to.slot];
  bool relays = needs_relay(to);
  if (!relays) {
    vdpa::QueueSetup own = setup;
    if (!slot.device->info().can.record_in_flight) own.ring.record = nullptr;
    own.is_translated = is_translated();
    if (own.is_translated) CW_CHECK(slot.device->set_translations(translated_, nullptr));
    const auto started = slot.device->set_queue(to.queue, std::move(own));
    // One that says nothing of its rings can begin a new one, but not go on with one in use.
    relays = !started && started.error().code == Errc::not_supported && !to.path &&
             !slot.device->info().can.reports_state && config_.relay_worker != nullptr;
    if (!started && !relays) return started;
    // What an earlier Device has written there will soon be wrong.
    if (!relays && setup.ring.record && !slot.device->info().can.record_in_flight) setup.ring.record->clear();
  }
  if (relays) {
    CW_TRY(state.relay, start_relay(queue, to, setup));
  }
  auto enabled = slot.device->enable_queue(to.queue, state.enabled);
  if (enabled) return {};
  const auto stopped = state.relay ? take_relay(state)->stop(vdpa::StopMode::leave)
                                   : slot.device->stop_queue(to.queue, vdpa::StopMode::leave);
  if (stopped) state.start = *stopped;
  return enabled;
}

Result<std::unique_ptr<Relay>> Port::start_relay(QueueIndex queue, const Binding& to, const vdpa::QueueSetup& setup) {
  if (config_.relay_worker == nullptr) {
    return fail(Errc::not_supported, fmt::format("port {} has no worker that could relay", name()));
  }
  const Slot& slot = slots_[to.slot];
  CW_TRY(const auto at, shadow_place(to));
  const RelayTarget target{
      .device = *slot.device, .queue = to.queue, .features = slot.without_ring.value_or(features_), .at = at};
  RelayEvents events{
      .on_fault =
          [this, queue](const Error& reason) {
            const Queue& state = queues_[number(queue)];
            if (state.started && !state.failed) fail_queue(queue, reason);
          },
      .on_miss = [this, queue](
                     const std::vector<memory::Miss>& misses) { await_translations(queues_[number(queue)], misses); }};
  return Relay::start(loop_, *config_.relay_worker, fmt::format("{}.relay{}", name(), number(queue)), target, setup,
                      relay_maps(), std::move(events));
}

/// Where the Device shall see a ring of ours: as high as it can, where guests have no memory.
Result<memory::Iova> Port::shadow_place(const Binding& to) const {
  const vdpa::DeviceInfo& device = slots_[to.slot].device->info();
  const std::uint64_t end = (std::min(device.iova_last.value(), kHighestIova) + 1) / ShadowRing::kStride;
  const std::uint64_t below = std::uint64_t{number(to.queue)} + 1;
  const auto overlaps = [&](const memory::Region& region) {
    const std::uint64_t at = (end - below) * ShadowRing::kStride;
    return region.iova.value() < at + ShadowRing::kStride && at <= region.iova.value() + (region.size - 1);
  };
  if (below <= end && (end - below) * ShadowRing::kStride >= device.iova_first.value() &&
      std::ranges::none_of(memory_->regions(), overlaps)) {
    return memory::Iova((end - below) * ShadowRing::kStride);
  }
  return fail(Errc::not_supported, fmt::format("device {} can address nothing but the guest's memory, up to {}: there "
                                               "is no room for a relay's ring",
                                               device.name, device.iova_last));
}

Result<QueueState> Port::stop_relay(Queue& state, vdpa::StopMode mode) {
  const auto relay = take_relay(state);
  auto stopped = relay->stop(mode);
  if (stopped) return stopped;
  log::warn("port {} queue {}: device {} does not stop: {}", name(), number(index_of(state)),
            device_of(state).info().name, stopped.error().text());
  return relay->abandon();
}

/// It is no longer the queue's; what it has counted is kept.
std::unique_ptr<Relay> Port::take_relay(Queue& state) {
  translation_counts_.hits += state.relay->queue().translated();
  return std::exchange(state.relay, nullptr);
}

/// The guest's memory is another: before any of it is unmapped.
void Port::replace_relay_maps() {
  for (const Queue& state : queues_) {
    if (!state.relay) continue;
    if (auto kept = state.relay->replace_maps(relay_maps()); !kept) fail_queue(index_of(state), kept.error());
  }
}

}  // namespace causeway::port

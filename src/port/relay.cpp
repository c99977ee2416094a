#include "port/relay.h"

#include "base/log.h"

#include <utility>

namespace causeway::port {

Relay::Relay(Worker& worker, const RelayTarget& target, ShadowRing shadow, KickFd kick, CallFd call,
             const vdpa::QueueSetup& guest)
    : worker_(worker),
      target_(target),
      shadow_(std::move(shadow)),
      kick_(std::move(kick)),
      call_(std::move(call)),
      guest_kick_(guest.kick),
      must_drain_(guest.ring.features.has(virtio::Feature::in_order) &&
                  !target.features.has(virtio::Feature::in_order) &&
                  target.device.info().type != virtio::DeviceType::net) {}

Result<std::unique_ptr<Relay>> Relay::start(Loop& loop, Worker& worker, const std::string& name, RelayTarget target,
                                            const vdpa::QueueSetup& guest, RelayMaps maps, RelayEvents events) {
  CW_TRY(auto shadow, ShadowRing::make(name, target.features, guest.ring.size.entries(), target.at));
  CW_TRY(auto kick, KickFd::make());
  CW_TRY(auto call, CallFd::make());
  auto relay =
      std::unique_ptr<Relay>(new Relay(worker, target, std::move(shadow), std::move(kick), std::move(call), guest));
  auto tell = [&loop, alive = relay->alive_, on_fault = std::move(events.on_fault)](Error reason) {
    // On the worker's thread: the Port hears of it on the control thread, if the relay still exists then.
    loop.post([alive, on_fault, reason = std::move(reason)] {
      if (*alive) on_fault(reason);
    });
  };
  auto ask = [&loop, self = relay.get(), alive = relay->alive_,
              on_miss = std::move(events.on_miss)](RelayQueue::Wait wait) {
    loop.post([self, alive, on_miss, wait = std::move(wait)] {
      // The maps may have been replaced since: then the driver may have taken back what was missed.
      if (*alive && self->queue_->current_wait() == wait.number) on_miss(wait.misses);
    });
  };
  CW_TRY(relay->queue_, RelayQueue::start(guest, std::move(maps), relay->shadow_,
                                          {.event = relay->kick_, .doorbell = {}, .queue = target.queue},
                                          std::move(tell), std::move(ask)));
  const std::span<const memory::Region> own(&relay->shadow_.region, 1);
  CW_CHECK(target.device.map(own));
  // What the guest has made available is there when the Device begins, as on the guest's own ring: a receive queue
  // would else lose frames that wait for it.
  while (relay->queue_->poll() != 0) {
  }
  const auto started = [&]() -> Result<void> {
    CW_CHECK(target.device.set_queue(
        target.queue,
        {.ring = relay->shadow_.config, .kick = relay->kick_, .call = relay->call_, .enabled = guest.enabled}));
    auto running = relay->run();
    if (running) return {};
    CW_CHECK(target.device.stop_queue(target.queue, vdpa::StopMode::drain));
    return running;
  }();
  if (started) return relay;
  CW_CHECK(target.device.unmap(own));
  return fail(started.error());
}

Relay::~Relay() {
  *alive_ = false;
  if (is_on_worker_) abandon();
}

DeviceKick Relay::device_kick() const {
  DeviceKick kick{.event = kick_, .doorbell = {}, .queue = target_.queue};
  const auto area = target_.device.notify_area(target_.queue);
  if (!area) return kick;
  // A doorbell of hardware has no size as files have: the Device passes kicks on to it.
  if (auto page = Mapping::map(area->fd, area->offset, area->size)) kick.doorbell = std::move(*page);
  return kick;
}

/// Has the worker begin.
Result<void> Relay::run() {
  Result<void> watched;
  worker_.run([&, kick = device_kick()]() mutable {
    queue_->set_kick(std::move(kick));
    watched = worker_.watch_event(call_.fd());
    if (watched && guest_kick_) watched = worker_.watch_event(guest_kick_->fd());
    if (watched) worker_.add(*queue_);
  });
  is_on_worker_ = watched.has_value();
  return watched;
}

void Relay::leave_worker() {
  if (!std::exchange(is_on_worker_, false)) return;
  worker_.run([this] {
    worker_.remove(*queue_);
    worker_.unwatch(call_.fd());
    if (guest_kick_) worker_.unwatch(guest_kick_->fd());
  });
}

Result<vdpa::QueueState> Relay::stop(vdpa::StopMode mode) {
  leave_worker();
  CW_CHECK(target_.device.stop_queue(target_.queue, must_drain_ ? vdpa::StopMode::drain : mode));
  auto position = queue_->finish();
  if (auto unmapped = target_.device.unmap({&shadow_.region, 1}); !unmapped) {
    log::error("device {}: {}", target_.device.info().name, unmapped.error().text());
  }
  return position;
}

vdpa::QueueState Relay::abandon() {
  leave_worker();
  return queue_->finish();
}

Result<void> Relay::replace_maps(RelayMaps maps) {
  Result<void> replaced;
  worker_.run([&] { replaced = queue_->replace_maps(std::move(maps)); });
  return replaced;
}

void Relay::set_call(std::optional<CallFd> call) {
  worker_.run([&] { queue_->set_call(std::move(call)); });
}

void Relay::renew_doorbell() {
  worker_.run([&, kick = device_kick()]() mutable { queue_->set_kick(std::move(kick)); });
}

}  // namespace causeway::port

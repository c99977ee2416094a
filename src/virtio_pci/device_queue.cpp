// The function's queues: start, stop, doorbells, interrupts; and the control virtqueue.
#include "base/log.h"
#include "base/mapping.h"
#include "virtio/net.h"
#include "virtio_pci/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::virtio_pci {
namespace {

/// Vector 0 is the configuration's.
std::uint16_t vector_of(virtio::QueueIndex queue) {
  return static_cast<std::uint16_t>(virtio::number(queue) + 1);
}

}  // namespace

Result<Device::Queue*> Device::find(virtio::QueueIndex queue) {
  if (gone_) return fail(*gone_);
  const auto found = queues_.find(queue);
  if (found != queues_.end()) return &found->second;
  return fail(Errc::not_found, fmt::format("device {}: queue {} does not run", info_.name, virtio::number(queue)));
}

Result<void> Device::set_queue(virtio::QueueIndex index, vdpa::QueueSetup setup) {
  if (gone_) return fail(*gone_);
  if (virtio::number(index) >= info_.queues) {
    return fail(Errc::peer_violation, fmt::format("device {} has {} queues", info_.name, info_.queues));
  }
  if (auto areas = virtio::RingAreas::locate(setup.ring, *map_); !areas) return fail(std::move(areas).error());
  if (!negotiated_) CW_CHECK(negotiate(setup.ring.features));
  CW_CHECK(check_start(index, setup));
  Queue queue{
      .setup = std::move(setup), .started = false, .notify_offset = 0, .doorbell = {}, .kicks = 0, .watch_kick = {}};
  CW_TRY(queue.notify_offset, notify_offset(index));
  // A doorbell in memory is rung from here by a store; one of hardware through the bus.
  if (auto file = notify_page(queue.notify_offset); file && size_of(file->fd).value_or(0) != 0) {
    CW_TRY(queue.doorbell, Mapping::map(file->fd, file->offset, page_size()));
  }
  Queue& place = queues_.insert_or_assign(index, std::move(queue)).first->second;
  if (!place.setup.enabled) return {};
  auto started = start(index, place);
  if (!started) queues_.erase(index);
  return started;
}

/// A plain function begins at the start of a ring.
Result<void> Device::check_start(virtio::QueueIndex index, const vdpa::QueueSetup& setup) const {
  if (ring_state_) return {};
  const auto areas = virtio::RingAreas::locate(setup.ring, *map_);
  const bool is_fresh = setup.ring.start == virtio::QueueState::initial(virtio::Layout::split) && areas &&
                        areas->used.load<std::uint16_t>(virtio::kRingIndex, std::memory_order_acquire) == 0;
  if (is_fresh) return {};
  return fail(Errc::not_supported, fmt::format("device {} queue {}: a function without ring state cannot go on with a "
                                               "ring that is in use",
                                               info_.name, virtio::number(index)));
}

std::optional<vdpa::QueueState> Device::former_state(virtio::QueueIndex index, const virtio::RingConfig& ring) {
  if (gone_ || !ring_state_ || virtio::number(index) >= info_.queues) return std::nullopt;
  const auto look = [&]() -> Result<vdpa::QueueState> {
    if (!negotiated_) CW_CHECK(negotiate(ring.features));
    CW_CHECK(begin_rings(ring));
    return ring_state_->state(index, ring, *map_);
  };
  auto state = look();
  if (state) return std::move(*state);
  log::info("device {} queue {}: {}", info_.name, virtio::number(index), state.error().text());
  return std::nullopt;
}

/// Before the first queue starts.
Result<void> Device::begin_rings(const virtio::RingConfig& ring) {
  if (ring_state_ && !ring_state_->has_begun()) {
    const auto count = static_cast<std::uint16_t>(info_.queues + (control_index_ != 0 ? 1 : 0));
    CW_CHECK(ring_state_->begin(ring.layout(), count, ring.size));
  }
  if (control_index_ != 0 && !control_ && negotiated_->has(virtio::NetFeature::ctrl_vq)) {
    CW_CHECK(start_control(*negotiated_));
  }
  return {};
}

Result<void> Device::start(virtio::QueueIndex index, Queue& queue) {
  const virtio::RingConfig& ring = queue.setup.ring;
  const bool is_first = !has(vdpa::Status{function_status_}, vdpa::Status::driver_ok);
  if (is_first) CW_CHECK(begin_rings(ring));
  if (ring_state_) {
    if (!ring_state_->keeps(index, ring)) {
      return fail(Errc::not_supported, fmt::format("device {} queue {}: its function has a record for rings of another "
                                                   "size than {}",
                                                   info_.name, virtio::number(index), ring.size.entries()));
    }
    CW_CHECK(ring_state_->put_start(index, ring, *map_));
  }
  const OwnedFd* const call = queue.setup.call ? &queue.setup.call->fd() : nullptr;
  CW_CHECK(bus_->set_vector(vector_of(index), call));
  CW_CHECK(write_ring(index, ring, vector_of(index)));
  if (is_first) {
    using vdpa::Status;
    const Status running = Status::acknowledge | Status::driver | Status::features_ok | Status::driver_ok;
    CW_CHECK(write_status(std::to_underlying(running)));
  }
  queue.started = true;
  if (queue.setup.kick) {
    queue.watch_kick.emplace(loop_.watch(queue.setup.kick->fd(), [this, index] {
      Queue& rung = queues_.at(index);
      if (!rung.setup.kick->drain()) return;
      ++rung.kicks;
      ring_doorbell(index, rung.notify_offset, rung.doorbell.get());
    }));
  }
  // What is in the ring already nobody may have told the function of.
  ring_doorbell(index, queue.notify_offset, queue.doorbell.get());
  return {};
}

Result<void> Device::write_ring(virtio::QueueIndex index, const virtio::RingConfig& ring, std::uint16_t vector) {
  CW_CHECK(common_->set(&CommonCfg::queue_select, virtio::number(index)));
  CW_CHECK(common_->set(&CommonCfg::queue_size, ring.size.entries()));
  CW_CHECK(common_->set(&CommonCfg::queue_msix_vector, vector));
  CW_TRY(const std::uint16_t taken, common_->get(&CommonCfg::queue_msix_vector));
  if (taken != vector) {
    return fail(Errc::system, fmt::format("queue {}: no interrupt vector", virtio::number(index)));  // 4.1.5.1.2
  }
  CW_CHECK(common_->set(&CommonCfg::queue_desc, ring.descriptors.value()));
  CW_CHECK(common_->set(&CommonCfg::queue_driver, ring.available.value()));
  CW_CHECK(common_->set(&CommonCfg::queue_device, ring.used.value()));
  return common_->set(&CommonCfg::queue_enable, std::uint16_t{1});
}

Result<std::uint64_t> Device::notify_offset(virtio::QueueIndex queue) const {
  CW_CHECK(common_->set(&CommonCfg::queue_select, virtio::number(queue)));
  CW_TRY(const std::uint16_t place, common_->get(&CommonCfg::queue_notify_off));
  const std::uint64_t offset = std::uint64_t{place} * layout_->multiplier;
  if (offset + 2 > layout_->notify.bytes) {
    return fail(Errc::peer_violation, fmt::format("device {} queue {}: its doorbell is outside the notification area",
                                                  info_.name, virtio::number(queue)));
  }
  return layout_->notify.offset + offset;
}

/// The page that the doorbell begins, when it is this queue's alone and can be mapped.
std::optional<vfio::RegionFile> Device::notify_page(std::uint64_t offset) const {
  if (offset % page_size() != 0 || layout_->multiplier < page_size()) return std::nullopt;
  return bus_->file_of(layout_->notify.bar, {.offset = offset, .size = page_size()});
}

std::optional<vdpa::NotifyArea> Device::notify_area(virtio::QueueIndex queue) const {
  // Of one that is not enabled too: a guest is offered it once, and it is not heard until then.
  const auto found = queues_.find(queue);
  if (gone_ || found == queues_.end()) return std::nullopt;
  const auto file = notify_page(found->second.notify_offset);
  if (!file) return std::nullopt;
  return vdpa::NotifyArea{.fd = file->fd, .offset = file->offset, .size = file->size};
}

void Device::ring_doorbell(virtio::QueueIndex index, std::uint64_t offset, const Mapping* page) {
  const std::uint16_t number = virtio::number(index);
  if (page != nullptr) {
    memory::GuestSpan::over({page->data(), page->size()}).store(0, number, std::memory_order_release);
    return;
  }
  const auto rung = bus_->write(layout_->notify.bar, offset, std::as_bytes(std::span(&number, 1)));
  if (!rung && rung.error().code != Errc::gone) log::warn("device {}: {}", info_.name, rung.error().text());
}

Result<void> Device::enable_queue(virtio::QueueIndex index, bool enabled) {
  const auto found = queues_.find(index);
  if (found == queues_.end()) return {};
  Queue& queue = found->second;
  queue.setup.enabled = enabled;
  if (gone_ || enabled == queue.started) return {};
  if (enabled) {
    CW_CHECK(check_start(index, queue.setup));  // it may have been at work before it was disabled
    return start(index, queue);
  }
  CW_TRY(queue.setup.ring.start, halt(index, queue, vdpa::StopMode::leave));
  return {};
}

Result<void> Device::set_call(virtio::QueueIndex index, std::optional<CallFd> call) {
  CW_TRY(Queue * queue, find(index));
  queue->setup.call = std::move(call);
  if (!queue->started) return {};
  return bus_->set_vector(vector_of(index), queue->setup.call ? &queue->setup.call->fd() : nullptr);
}

Result<vdpa::QueueState> Device::stop_queue(virtio::QueueIndex index, vdpa::StopMode mode) {
  CW_TRY(Queue * found, find(index));
  Queue queue = std::move(*found);
  queues_.erase(index);
  if (!queue.started) return queue.setup.ring.start;
  return halt(index, queue, mode);
}

/// Stops a queue in the function.
Result<vdpa::QueueState> Device::halt(virtio::QueueIndex index, Queue& queue, vdpa::StopMode mode) {
  queue.watch_kick.reset();
  queue.started = false;
  if (!ring_state_) return halt_plain(index, queue);
  CW_CHECK(ring_state_->stop(index, mode));
  CW_CHECK(bus_->set_vector(vector_of(index), nullptr));
  return ring_state_->state(index, queue.setup.ring, *map_);
}

std::vector<vdpa::Counter> Device::counters(virtio::QueueIndex queue) const {
  const auto found = queues_.find(queue);
  return {{.name = "kicks_passed_on", .value = found == queues_.end() ? 0 : found->second.kicks}};
}

// --- The control virtqueue ------------------------------------------------------------------------------------------

std::optional<virtio::QueueIndex> Device::control_queue(virtio::FeatureSet features) const {
  if (info_.type != virtio::DeviceType::net || !features.has(virtio::NetFeature::ctrl_vq)) return std::nullopt;
  return virtio::QueueIndex{features.has(virtio::NetFeature::mq) ? info_.queues : std::uint16_t{2}};
}

Result<void> Device::start_control(virtio::FeatureSet features) {
  // Without MQ it follows the first pair, whatever the function has (5.1.2).
  const virtio::QueueIndex index{features.has(virtio::NetFeature::mq) ? control_index_ : std::uint16_t{2}};
  const auto last = bus_->info().iovas.back();
  const std::uint64_t end = (last.last.value() - page_size() + 1) / page_size() * page_size();
  CW_TRY(const auto offset, notify_offset(index));
  CW_TRY(control_, ControlDriver::make(loop_, *bus_, info_.name, memory::Iova(end - ControlDriver::size()), features,
                                       [this, index, offset] { ring_doorbell(index, offset, nullptr); }));
  // Its function keeps a record for it like for any other, and starts where that says.
  const auto& ring = control_->ring();
  const bool has_vector = vectors_ > info_.queues + 1U;
  const auto vector = static_cast<std::uint16_t>(info_.queues + 1);
  if (has_vector) CW_CHECK(bus_->set_vector(vector, &control_->event().fd()));
  return write_ring(index, ring, has_vector ? vector : kNoVector);
}

vdpa::ControlReply Device::control(std::span<const std::byte> command) {
  if (gone_ || !control_ || !control_->tell(command)) return {.ack = virtio::kCtrlErr};
  return {.ack = virtio::kCtrlOk};
}

}  // namespace causeway::virtio_pci

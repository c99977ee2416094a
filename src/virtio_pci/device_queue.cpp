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
  if (!bells_.contains(index)) CW_CHECK(learn_bell(index));
  Queue queue{.setup = std::move(setup), .started = false, .watch_kick = {}};
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
  const auto features = *negotiated_ | own_features();
  if (control_index_ != 0 && !control_ && features.has(virtio::NetFeature::ctrl_vq)) CW_CHECK(start_control(features));
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
  CW_CHECK(lend_call(index, queue.setup.call));
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
      ++kicks_[index];
      ring_doorbell(index, bells_.at(index));
    }));
  }
  // What is in the ring already nobody may have told the function of.
  ring_doorbell(index, bells_.at(index));
  return {};
}

Result<void> Device::write_ring(virtio::QueueIndex index, const virtio::RingConfig& ring, std::uint16_t vector) {
  const Written wanted{.size = ring.size,
                       .descriptors = ring.descriptors,
                       .available = ring.available,
                       .used = ring.used,
                       .vector = vector};
  const auto known = written_.find(index);
  const bool is_as_before = known != written_.end() && known->second == wanted;
  if (!is_as_before) CW_CHECK(write_registers(index, wanted));
  Batch batch(*bus_);
  common_->set(batch, &CommonCfg::queue_select, virtio::number(index));
  common_->set(batch, &CommonCfg::queue_enable, std::uint16_t{1});
  CW_CHECK(batch.run());
  return {};
}

/// All of a queue but that it is enabled: only when it is known to have its vector.
Result<void> Device::write_registers(virtio::QueueIndex index, const Written& wanted) {
  written_.erase(index);
  Batch batch(*bus_);
  common_->set(batch, &CommonCfg::queue_select, virtio::number(index));
  common_->set(batch, &CommonCfg::queue_size, wanted.size.entries());
  common_->set(batch, &CommonCfg::queue_msix_vector, wanted.vector);
  const auto taken = common_->get(batch, &CommonCfg::queue_msix_vector);
  common_->set(batch, &CommonCfg::queue_desc, wanted.descriptors.value());
  common_->set(batch, &CommonCfg::queue_driver, wanted.available.value());
  common_->set(batch, &CommonCfg::queue_device, wanted.used.value());
  CW_CHECK(batch.run());
  if (batch.value<std::uint16_t>(taken) != wanted.vector) {
    return fail(Errc::system, fmt::format("queue {}: no interrupt vector", virtio::number(index)));  // 4.1.5.1.2
  }
  // Plain functions forget all that with the reset that stops a queue.
  if (ring_state_) written_.insert_or_assign(index, wanted);
  return {};
}

/// Has the queue's vector signal that, and nothing when there is nothing.
Result<void> Device::lend_call(virtio::QueueIndex index, const std::optional<CallFd>& call) {
  const auto lent = calls_.find(index);
  const bool is_as_before = lent == calls_.end() ? !call : lent->second == call;
  if (is_as_before) return {};
  calls_.erase(index);
  CW_CHECK(bus_->set_vector(vector_of(index), call ? &call->fd() : nullptr));
  if (call) calls_.insert_or_assign(index, *call);
  return {};
}

/// Nothing of the driver's is signalled any more.
Result<void> Device::take_calls_back() {
  while (!calls_.empty()) CW_CHECK(lend_call(calls_.begin()->first, std::nullopt));
  return {};
}

/// A doorbell in memory is rung from here by a store; one of hardware through the bus.
Result<void> Device::learn_bell(virtio::QueueIndex index) {
  Bell bell{};
  CW_TRY(bell.offset, notify_offset(index));
  if (auto file = notify_page(bell.offset); file && size_of(file->fd).value_or(0) != 0) {
    CW_TRY(bell.page, Mapping::map(file->fd, file->offset, page_size()));
  }
  bells_.insert_or_assign(index, std::move(bell));
  return {};
}

Result<std::uint64_t> Device::notify_offset(virtio::QueueIndex queue) const {
  Batch batch(*bus_);
  common_->set(batch, &CommonCfg::queue_select, virtio::number(queue));
  const auto place = common_->get(batch, &CommonCfg::queue_notify_off);
  CW_CHECK(batch.run());
  const std::uint64_t offset = std::uint64_t{batch.value<std::uint16_t>(place)} * layout_->multiplier;
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
  const auto file = notify_page(bells_.at(queue).offset);
  if (!file) return std::nullopt;
  return vdpa::NotifyArea{.fd = file->fd, .offset = file->offset, .size = file->size};
}

const OwnedFd* Device::vfio_group(virtio::QueueIndex queue) const {
  return gone_ || !queues_.contains(queue) ? nullptr : bus_->group();
}

void Device::ring_doorbell(virtio::QueueIndex index, const Bell& bell) {
  const std::uint16_t number = virtio::number(index);
  if (bell.page) {
    memory::GuestSpan::over({bell.page->data(), bell.page->size()}).store(0, number, std::memory_order_release);
    return;
  }
  const auto rung = bus_->write(layout_->notify.bar, bell.offset, std::as_bytes(std::span(&number, 1)));
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
  return lend_call(index, queue->setup.call);
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
  return ring_state_->state(index, queue.setup.ring, *map_);
}

// --- The control virtqueue ------------------------------------------------------------------------------------------

std::optional<virtio::QueueIndex> Device::control_queue(virtio::FeatureSet features) const {
  if (info_.type != virtio::DeviceType::net || !features.has(virtio::NetFeature::ctrl_vq)) return std::nullopt;
  return virtio::QueueIndex{queues_with(features)};
}

Result<void> Device::start_control(virtio::FeatureSet features) {
  // Without MQ and RSS it follows the first pair, whatever the function has (5.1.2).
  const bool has_many = features.has(virtio::NetFeature::mq) || features.has(virtio::NetFeature::rss);
  const virtio::QueueIndex index{has_many ? control_index_ : std::uint16_t{2}};
  const auto last = bus_->info().iovas.back();
  const std::uint64_t end = (last.last.value() - page_size() + 1) / page_size() * page_size();
  CW_TRY(const auto offset, notify_offset(index));
  CW_TRY(control_,
         ControlDriver::make(loop_, *bus_, info_.name, memory::Iova(end - ControlDriver::size()), features,
                             [this, index, bell = Bell{.offset = offset, .page = {}}] { ring_doorbell(index, bell); }));
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

// The function's queues on its port: start, stop, reset, interrupts, doorbells.
#include "base/mapping.h"
#include "virtio/inflight.h"
#include "virtio_pci/function.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::virtio_pci {

std::optional<CallFd> Function::call_of(std::uint16_t vector) const {
  return vector < vectors_.size() ? vectors_[vector] : std::nullopt;
}

/// A vector has another eventfd, or a queue another vector.
void Function::use_vector(std::uint16_t vector) {
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    const Queue& queue = queues_[i];
    if (!queue.running || queue.vector != vector) continue;
    if (auto done = port_.set_queue_call(virtio::QueueIndex{i}, call_of(vector)); !done) fail_queue(i, done.error());
  }
}

void Function::start_queues() {
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i].enabled) try_to_start(i);
  }
}

void Function::enable(std::uint16_t index, bool enabled) {
  Queue& queue = queues_[index];
  if (!enabled || queue.enabled) return;  // 4.1.4.3.2: a driver never writes 0
  queue.enabled = true;
  if (has(vdpa::Status{status_}, vdpa::Status::driver_ok)) try_to_start(index);
}

void Function::try_to_start(std::uint16_t index) {
  if (auto started = start(index, queues_[index]); !started) fail_queue(index, started.error());
}

Result<void> Function::start(std::uint16_t index, Queue& queue) {
  // A driver that says DRIVER_OK again starts what does not run yet.
  if (queue.running) return {};
  const virtio::QueueIndex number{index};
  if (queue.size == 0) queue.size = static_cast<std::uint16_t>(port_.info().largest_ring);
  const bool is_first = !queue.kick;
  if (is_first) {
    CW_TRY(queue.kick, KickFd::make());
  }
  CW_TRY(queue.err, ErrFd::make());
  CW_CHECK(port_.set_queue_size(number, queue.size));
  CW_CHECK(port_.set_queue_addresses(number, {.kind = port::RingAddressKind::guest,
                                              .descriptors = queue.descriptors,
                                              .available = queue.driver,
                                              .used = queue.device}));
  CW_CHECK(port_.set_queue_call(number, call_of(queue.vector)));
  CW_CHECK(port_.set_queue_err(number, queue.err));
  CW_CHECK(port_.enable_queue(number, true));
  CW_CHECK(port_.start_queue(number, queue.kick));
  queue.running = true;
  queue.watch_err.emplace(loop_.watch(queue.err->fd(), [this, index] {
    queues_[index].err->drain();
    fail_queue(index, {.code = Errc::peer_violation, .what = "its ring is broken"});
  }));
  if (is_first) {
    bells_->set(index, queue.kick);
  } else {
    bells_->watch(index, true);
  }
  return {};
}

void Function::fail_queue(std::uint16_t index, const Error& why) {
  status_ |= std::to_underlying(vdpa::Status::needs_reset);
  if (log_limit_.allow()) log::warn("port {} queue {}: needs reset: {}", port_.name(), index, why.text());
  config_changed();
}

void Function::ring(std::uint64_t offset) {
  const std::uint64_t index = offset / page_size();
  if (index < queues_.size() && queues_[index].running) queues_[index].kick->signal();
}

/// Ends a queue; false when it has not stopped in good order.
bool Function::halt(std::uint16_t index, vdpa::StopMode mode) {
  Queue& queue = queues_[index];
  queue.enabled = false;
  if (!std::exchange(queue.running, false)) return true;
  bells_->watch(index, false);
  queue.watch_err.reset();
  const auto stopped = port_.stop_queue(virtio::QueueIndex{index}, mode);
  if (!stopped && log_limit_.allow()) log::warn("port {} queue {}: {}", port_.name(), index, stopped.error().text());
  return stopped.has_value();
}

void Function::reset_queue(std::uint16_t index) {
  halt(index, vdpa::StopMode::drain);
  // A queue that was reset begins a new ring (2.6.1).
  const auto layout = virtio::layout_of(port_.features());
  if (auto fresh = port_.set_queue_base(virtio::QueueIndex{index}, virtio::QueueState::initial(layout)); !fresh) {
    fail_queue(index, fresh.error());
  }
  auto kick = std::move(queues_[index].kick);
  queues_[index] = Queue{};
  queues_[index].kick = std::move(kick);
}

void Function::stop_queue(std::uint16_t index, std::uint16_t command) {
  stop_result_ = kStopFailed;
  if (index >= queues_.size() || (command != kStopLeave && command != kStopDrain)) return;
  const auto mode = command == kStopLeave ? vdpa::StopMode::leave : vdpa::StopMode::drain;
  if (halt(index, mode)) stop_result_ = 0;
}

void Function::choose_record(std::uint16_t entries) {
  if (entries == 0 || !port_.is_suspended()) return;
  record_entries_ = 0;
  const auto use = [&]() -> Result<void> {
    const auto layout = virtio::layout_of(port_.features());
    CW_TRY(const auto size, virtio::QueueSize::make(layout, entries));
    if (entries > port_.info().largest_ring) {
      return fail(Errc::peer_violation, fmt::format("records for rings of {} entries", entries));
    }
    CW_TRY(auto file, shared_->duplicate());
    const auto queues = static_cast<std::uint16_t>(queues_.size());
    CW_TRY(auto region, virtio::InflightRegion::adopt(layout, queues, size, std::move(file), record_offset_,
                                                      virtio::InflightRegion::full_size(layout, queues, size)));
    return port_.use_inflight(std::move(region));
  };
  if (auto used = use()) {
    record_entries_ = entries;
  } else if (log_limit_.allow()) {
    log::warn("port {}: no records of what is in flight: {}", port_.name(), used.error().text());
  }
}

void Function::reset_device() {
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i].kick) bells_->set(i, std::nullopt);
    queues_[i] = Queue{};
  }
  // First: what is recorded stays for a client that finds out by it where its rings stood.
  port_.forget_inflight();
  port_.reset();
  record_entries_ = 0;
  device_feature_select_ = driver_feature_select_ = 0;
  driver_features_ = 0;
  config_vector_ = kNoVector;
  status_ = 0;
  isr_ = 0;
  queue_select_ = 0;
  stop_select_ = stop_result_ = 0;
}

}  // namespace causeway::virtio_pci

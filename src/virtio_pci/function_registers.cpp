// The common configuration and the ring-state registers. Spec: virtio 1.3 section 4.1.4.3.
#include "virtio_pci/function.h"

#include <algorithm>
#include <cstring>

namespace causeway::virtio_pci {
namespace {

/// Calls `set` with the whole new value of the field that `member` is, where a write of `from` at `offset` touches it.
/// Drivers write 64-bit fields in two halves.
template <class Registers, class Field, class Set>
void on_write(const Registers& old, Field Registers::* member, std::size_t offset, std::span<const std::byte> from,
              Set set) {
  Registers written = old;
  const auto bytes = std::as_writable_bytes(std::span(&written, 1));
  std::ranges::copy(from, bytes.subspan(offset).begin());
  const auto at = static_cast<std::size_t>(std::as_bytes(std::span(&(old.*member), 1)).data() -
                                           std::as_bytes(std::span(&old, 1)).data());
  if (offset < at + sizeof(Field) && at < offset + from.size()) set(written.*member);
}

std::uint32_t word(std::uint64_t bits, std::uint32_t select) {
  return select < 2 ? static_cast<std::uint32_t>(bits >> (32 * select)) : 0;
}

}  // namespace

CommonCfg Function::common() const {
  const Queue* const queue = queue_select_ < queues_.size() ? &queues_[queue_select_] : nullptr;
  const auto largest = static_cast<std::uint16_t>(port_.info().largest_ring);
  CommonCfg registers{};
  registers.device_feature_select = device_feature_select_;
  registers.device_feature = word(offered().bits(), device_feature_select_);
  registers.driver_feature_select = driver_feature_select_;
  registers.driver_feature = word(driver_features_, driver_feature_select_);
  registers.config_msix_vector = config_vector_;
  registers.num_queues = static_cast<std::uint16_t>(queues_.size());
  registers.device_status =
      status_ | (static_cast<std::uint8_t>(port_.status()) & std::to_underlying(vdpa::Status::needs_reset));
  registers.config_generation = generation_;
  registers.queue_select = queue_select_;
  registers.queue_notify_off = queue_select_;
  registers.queue_msix_vector = kNoVector;
  if (queue == nullptr) return registers;
  registers.queue_size = queue->size != 0 ? queue->size : largest;
  registers.queue_msix_vector = queue->vector;
  registers.queue_enable = queue->enabled ? 1 : 0;
  registers.queue_desc = queue->descriptors;
  registers.queue_driver = queue->driver;
  registers.queue_device = queue->device;
  return registers;
}

void Function::write_common(std::size_t offset, std::span<const std::byte> from) {
  const CommonCfg old = common();
  const auto on = [&](auto member, auto set) { on_write(old, member, offset, from, set); };
  on(&CommonCfg::device_feature_select, [&](std::uint32_t value) { device_feature_select_ = value; });
  on(&CommonCfg::driver_feature_select, [&](std::uint32_t value) { driver_feature_select_ = value; });
  on(&CommonCfg::driver_feature, [&](std::uint32_t value) {
    if (driver_feature_select_ > 1) return;
    const unsigned shift = 32 * driver_feature_select_;
    driver_features_ = (driver_features_ & ~(0xffffffffULL << shift)) | (std::uint64_t{value} << shift);
  });
  const auto vector = [&](std::uint16_t value) { return value < info_.vectors ? value : kNoVector; };
  on(&CommonCfg::config_msix_vector, [&](std::uint16_t value) { config_vector_ = vector(value); });
  on(&CommonCfg::device_status, [&](std::uint8_t value) { set_status(value); });
  on(&CommonCfg::queue_select, [&](std::uint16_t value) { queue_select_ = value; });
  const std::uint16_t index = queue_select_;
  if (index >= queues_.size()) return;
  Queue& queue = queues_[index];
  on(&CommonCfg::queue_msix_vector, [&](std::uint16_t value) {
    queue.vector = vector(value);
    use_vector(queue.vector);
  });
  on(&CommonCfg::queue_enable, [&](std::uint16_t value) { enable(index, value == 1); });
  on(&CommonCfg::queue_reset, [&](std::uint16_t value) {
    if (value == 1) reset_queue(index);
  });
  if (queue.enabled) return;  // 4.1.4.3.2: the driver has set all of this before
  on(&CommonCfg::queue_size, [&](std::uint16_t value) { queue.size = value; });
  on(&CommonCfg::queue_desc, [&](std::uint64_t value) { queue.descriptors = value; });
  on(&CommonCfg::queue_driver, [&](std::uint64_t value) { queue.driver = value; });
  on(&CommonCfg::queue_device, [&](std::uint64_t value) { queue.device = value; });
}

void Function::set_status(std::uint8_t status) {
  using vdpa::Status;
  if (status == 0) return reset_device();
  const auto has_come = [&](Status bit) { return has(Status{status}, bit) && !has(Status{status_}, bit); };
  if (has_come(Status::features_ok) && !accept_features()) {
    status = static_cast<std::uint8_t>(status & ~std::to_underlying(Status::features_ok));
  }
  const bool starts = has_come(Status::driver_ok);
  // What a driver has broken it cannot mend but by a reset.
  status_ = static_cast<std::uint8_t>(status | (status_ & std::to_underlying(Status::needs_reset)));
  if (auto done = port_.set_status(Status{status}); !done && log_limit_.allow()) {
    log::warn("port {}: status {:#x}: {}", port_.name(), status, done.error().text());
  }
  if (starts) start_queues();
}

bool Function::accept_features() {
  const virtio::FeatureSet wanted(driver_features_);
  if (wanted.is_subset_of(offered())) {
    const auto taken = port_.set_features(wanted.without(virtio::Feature::ring_reset));
    if (taken) return true;
    if (log_limit_.allow()) log::warn("port {}: features: {}", port_.name(), taken.error().text());
    return false;
  }
  if (log_limit_.allow()) {
    log::warn("port {}: features that were not offered: {}", port_.name(),
              text(port_.info().type, wanted.minus(offered())));
  }
  return false;
}

RingStateCfg Function::ring_state() const {
  return {.record_entries = record_entries_,
          .queue_select = stop_select_,
          .queue_stop = stop_result_,
          .record_bar = static_cast<std::uint8_t>(kSharedBar),
          .padding = 0,
          .record_offset = record_offset_,
          .record_bytes = record_bytes_};
}

void Function::write_ring_state(std::size_t offset, std::span<const std::byte> from) {
  const RingStateCfg old = ring_state();
  const auto on = [&](auto member, auto set) { on_write(old, member, offset, from, set); };
  on(&RingStateCfg::record_entries, [&](std::uint16_t value) { choose_record(value); });
  on(&RingStateCfg::queue_select, [&](std::uint16_t value) { stop_select_ = value; });
  on(&RingStateCfg::queue_stop, [&](std::uint16_t value) { stop_queue(stop_select_, value); });
}

}  // namespace causeway::virtio_pci

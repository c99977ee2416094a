#include "port/port.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::port {

std::string_view name_of(Path path) {
  switch (path) {
    case Path::direct:
      return "direct";
    case Path::relay:
      return "relay";
  }
  return "unknown";
}

/// Knows which of the port's Devices it listens to.
class Port::Observer final : public vdpa::DeviceObserver {
 public:
  Observer(Port& port, std::size_t slot) : port_(port), slot_(slot) {}
  void config_changed() override { port_.on_config_changed(); }
  void queue_failed(QueueIndex queue, Error reason) override { port_.on_queue_failed(slot_, queue, reason); }
  void translations_missed(QueueIndex queue, const std::vector<memory::Miss>& misses) override {
    port_.on_translations_missed(slot_, queue, misses);
  }
  void device_gone(Error reason) override { port_.on_device_gone(slot_, reason); }
  void device_back() override { port_.on_device_back(slot_); }
  void notify_area_changed(QueueIndex queue) override { port_.on_notify_area_changed(slot_, queue); }
  void vfio_group_changed(QueueIndex queue) override { port_.on_vfio_group_changed(slot_, queue); }

 private:
  Port& port_;
  std::size_t slot_;
};

Result<std::unique_ptr<Port>> Port::make(Loop& loop, PortConfig config,
                                         std::vector<std::unique_ptr<vdpa::Device>> devices) {
  if (devices.empty()) return fail(Errc::invalid_value, fmt::format("port {}: it has no device", config.name));
  for (const auto& device : devices) {
    if (device->info().type != devices.back()->info().type) {
      return fail(Errc::invalid_value, fmt::format("port {}: devices '{}' and '{}' are of different types", config.name,
                                                   device->info().name, devices.back()->info().name));
    }
  }
  for (const auto& name : config.bindings) {
    if (std::ranges::any_of(devices, [&](const auto& device) { return device->info().name == name; })) continue;
    return fail(Errc::invalid_value, fmt::format("port {}: it has no device '{}'", config.name, name));
  }
  return std::unique_ptr<Port>(new Port(loop, std::move(config), std::move(devices)));
}

Port::Port(Loop& loop, PortConfig config, std::vector<std::unique_ptr<vdpa::Device>> devices)
    : loop_(loop), config_(std::move(config)), memory_(memory::MemoryMap::empty()), translated_(iotlb_.map(memory_)) {
  for (auto& device : devices) {
    auto observer = std::make_unique<Observer>(*this, slots_.size());
    device->set_observer(observer.get());
    slots_.push_back({.device = std::move(device),
                      .observer = std::move(observer),
                      .gone = {},
                      .features = {},
                      .settings = {},
                      .memory = {}});
  }
  const vdpa::DeviceInfo& last = info();
  const auto control = fallback().device->control_queue(last.features);
  queues_.resize(last.queues + (control ? 1u : 0u));
  bind_as_configured();
}

Port::~Port() {
  side_ = nullptr;
  stop_all();
  for (Slot& slot : slots_) slot.device->set_observer(nullptr);
}

const vdpa::DeviceInfo& Port::info() const {
  return slots_.back().device->info();
}

FeatureSet Port::offered_features() const {
  const FeatureSet possible = info().features.minus(config_.features_off);
  return slots_.size() == 1 ? possible : possible.minus(info().features_alone);
}

Result<void> Port::attach(DriverSide& side) {
  if (side_ != nullptr) return fail(Errc::busy, fmt::format("port {} has a driver side already", name()));
  side_ = &side;
  return {};
}

void Port::detach() {
  if (PortRecord last = record(); last.has_driver()) former_ = std::move(last);
  has_met_former_ = false;
  // What is recorded of requests in flight stays: the driver side may come back.
  stop_all();
  forget_driver();
  inflight_.reset();
  log_.reset();
  mtu_.reset();
  unmap_everywhere(memory_->regions());
  memory_ = memory::MemoryMap::empty();
  forget_translations();
  for (Slot& slot : slots_) slot.memory.clear();
  side_ = nullptr;
}

Result<void> Port::set_features(FeatureSet features) {
  if (!features.is_subset_of(offered_features())) {
    return fail(Errc::not_supported, fmt::format("features that were not offered: {}",
                                                 text(info().type, features.minus(offered_features()))));
  }
  if (features == features_) return {};
  if (!is_suspended()) return fail(Errc::peer_violation, "features cannot change while queues run");
  CW_CHECK(tell_all_features(features));
  if (virtio::layout_of(features) != virtio::layout_of(features_)) {
    for (Queue& queue : queues_) queue.start.reset();
  }
  // A Device that has negotiated anew starts from nothing, too.
  control_log_.clear();
  features_ = features;
  for (std::uint16_t i = 0; i < queues_.size(); ++i) queues_[i].bound = choose_binding(QueueIndex{i});
  return {};
}

/// The last Device decides what was offered, so it must be able to take it; for the others it is a matter of binding.
Result<void> Port::tell_all_features(FeatureSet features) {
  for (Slot& slot : slots_) {
    if (!slot.gone.empty()) continue;
    const auto taken = tell_features(slot, features);
    slot.features = taken ? std::string() : taken.error().text();
    if (taken) continue;
    if (&slot == &fallback()) return fail(taken.error());
    log::info("port {}: device {} cannot take the negotiated features: {}", name(), slot.device->info().name,
              slot.features);
  }
  if (std::ranges::none_of(slots_, &Slot::is_usable)) return fail(Errc::gone, fallback().why_not());
  return {};
}

Result<void> Port::tell_all(const std::function<Result<void>(vdpa::Device&)>& work) {
  if (fallback().gone.empty()) CW_CHECK(work(*fallback().device));
  for (std::size_t slot = 0; slot + 1 < slots_.size(); ++slot) {
    if (!slots_[slot].gone.empty()) continue;
    if (auto done = work(*slots_[slot].device); !done) make_unusable(slot, &Slot::settings, done.error());
  }
  return {};
}

Result<void> Port::set_status(Status status) {
  if (status == Status::reset) {
    reset();
    return {};
  }
  CW_CHECK(tell_all([status](vdpa::Device& device) { return device.set_status(status); }));
  status_ = status;
  return {};
}

void Port::reset() {
  stop_all();
  for (std::uint16_t i = 0; i < queues_.size(); ++i) forget_record(QueueIndex{i}, queues_[i]);
  forget_driver();
  former_.reset();
  differences_.clear();
  save();
}

void Port::reset_devices() {
  for (Slot& slot : slots_) {
    slot.features.clear();
    slot.without_ring.reset();
    slot.settings.clear();
    if (!slot.gone.empty()) continue;
    if (auto done = slot.device->set_status(Status::reset); !done) {
      log::warn("port {}: device {} did not reset: {}", name(), slot.device->info().name, done.error().text());
    }
  }
}

void Port::forget_driver() {
  reset_devices();
  for (Queue& queue : queues_) {
    // The binding is the operator's and stays; everything else was the driver's.
    const auto [bound, wanted] = std::pair(queue.bound, queue.wanted);
    queue = Queue{};
    queue.bound = bound;
    queue.wanted = wanted;
  }
  control_log_.clear();
  config_written_.clear();
  features_ = FeatureSet();
  status_ = Status::reset;
}

Result<void> Port::read_config(std::uint32_t offset, std::span<std::byte> to) const {
  return slots_.back().device->read_config(offset, to);
}

Result<void> Port::write_config(std::uint32_t offset, std::span<const std::byte> from) {
  CW_CHECK(tell_all([offset, from](vdpa::Device& device) { return device.write_config(offset, from); }));
  for (std::uint32_t i = 0; i < from.size(); ++i) config_written_[offset + i] = from[i];
  save();
  return {};
}

Result<void> Port::announce(std::span<const std::byte, 6> mac) {
  return fallback().device->announce(mac);
}

Result<void> Port::set_mtu(std::uint16_t mtu) {
  CW_CHECK(tell_all([mtu](vdpa::Device& device) { return device.set_mtu(mtu); }));
  mtu_ = mtu;
  save();
  return {};
}

bool Port::is_suspended() const {
  return std::ranges::none_of(queues_, [](const Queue& queue) { return queue.started; });
}

bool Port::is_bound(std::size_t slot) const {
  return std::ranges::any_of(queues_, [slot](const Queue& queue) { return queue.started && queue.bound.slot == slot; });
}

vdpa::ControlReply Port::control(std::span<const std::byte> command) {
  vdpa::ControlReply reply = fallback().device->control(command);
  if (reply.is_query) return reply;
  for (std::size_t slot = 0; slot + 1 < slots_.size(); ++slot) {
    if (reply.ack != 0 || !is_bound(slot)) continue;
    const vdpa::ControlReply other = slots_[slot].device->control(command);
    if (other.ack != 0) reply.ack = other.ack;
  }
  if (reply.ack != 0) return reply;
  if (reply.is_default) {
    control_log_.erase(reply.topic);
  } else {
    control_log_[reply.topic].assign(command.begin(), command.end());
  }
  save();
  return reply;
}

void Port::replay_control(std::size_t slot) {
  for (const auto& [topic, command] : control_log_) {
    if (slots_[slot].device->control(command).ack == 0) continue;
    log::warn("port {}: device {} refused a control command that was accepted before", name(),
              slots_[slot].device->info().name);
  }
}

void Port::refresh_counters(const std::shared_ptr<void>& token) const {
  for (const Slot& slot : slots_) slot.device->refresh_counters(token);
}

std::vector<vdpa::Counter> Port::totals(QueueIndex queue) const {
  std::vector<vdpa::Counter> sums;
  for (const Slot& slot : slots_) {
    for (const vdpa::Counter& counter : slot.device->counters(queue)) {
      const auto known = std::ranges::find(sums, counter.name, &vdpa::Counter::name);
      if (known == sums.end()) {
        sums.push_back(counter);
      } else {
        known->value += counter.value;
      }
    }
  }
  return sums;
}

PortReport Port::report() const {
  PortReport report{.name = name(),
                    .type = info().type,
                    .attached = side_ != nullptr,
                    .status = status_,
                    .offered = offered_features(),
                    .negotiated = features_,
                    .memory_regions = memory_->regions().size(),
                    .memory_bytes = 0,
                    .logging = is_logging(),
                    .rebinds = rebinds_,
                    .translation = {},
                    .differences = differences_,
                    .devices = {},
                    .unusable = {},
                    .uncounted = {},
                    .queues = {}};
  for (const memory::Region& region : memory_->regions()) report.memory_bytes += region.size;
  if (is_translated()) {
    report.translation = translation_counts_;
    report.translation->entries = iotlb_.size();
    report.translation->unanswered = asked_.size();
    report.translation->hits += translated_buffers();
  }
  for (const Slot& slot : slots_) {
    const std::string& device = slot.device->info().name;
    report.devices.push_back(device);
    if (!slot.is_usable()) report.unusable.push_back({.name = device, .reason = slot.why_not()});
    if (auto why = slot.device->why_uncounted(); !why.empty()) {
      report.uncounted.push_back({.name = device, .reason = std::move(why)});
    }
  }
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    const Queue& queue = queues_[i];
    const vdpa::Device& device = device_of(queue);
    report.queues.push_back({.index = i,
                             .is_control = is_control(QueueIndex{i}),
                             .size = queue.size ? queue.size->entries() : 0u,
                             .started = queue.started,
                             .enabled = queue.enabled,
                             .failed = queue.failed,
                             .waits = queue.waits,
                             .device = device.info().name,
                             .device_queue = number(queue.bound.queue),
                             .path = path_of(queue),
                             .doorbell = side_ != nullptr ? side_->doorbell(QueueIndex{i}) : Doorbell::none,
                             .run_again = queue.run_again,
                             .counters = device.counters(queue.bound.queue),
                             .totals = totals(QueueIndex{i})});
  }
  return report;
}

}  // namespace causeway::port

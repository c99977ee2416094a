// What a Port keeps of its driver beyond the life of a connection and of this process, and what it makes of that when a
// driver side comes.

#include "port/port.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

namespace causeway::port {
namespace {

std::string record_name(const std::string& port) {
  return port + ".port";
}

/// The ring of before: the same memory, whatever it is called now.
bool is_same_ring(const QueueRecord& before, const QueueRecord& now) {
  return before.place && before.place == now.place && before.size == now.size;
}

}  // namespace

Result<std::optional<PortRecord>> load_record(const StateDirectory& state, const std::string& port) {
  CW_TRY(const auto bytes, state.load(record_name(port)));
  if (!bytes) return std::optional<PortRecord>();
  auto record = decode(*bytes);
  if (record && record->port != port) {
    record = fail(Errc::peer_violation, fmt::format("it is that of port '{}'", record->port));
  }
  if (record) return std::optional(std::move(*record));
  return fail(std::move(record).error().context(
      fmt::format("the record in '{}' is not used", state.path_of(record_name(port)).native())));
}

void discard_record(const StateDirectory& state, const std::string& port) {
  state.remove(record_name(port));
}

PortRecord Port::record() const {
  PortRecord record{.port = name(),
                    .type = info().type,
                    .features = features_,
                    .status = status_,
                    .memory = {},
                    .queues = {},
                    .control = control_log_,
                    .rebinds = rebinds_,
                    .config = config_written_,
                    .mtu = mtu_};
  for (const memory::Region& region : memory_->regions()) record.memory.push_back(RegionRecord::of(region));
  for (std::uint16_t i = 0; i < queues_.size(); ++i) record.queues.push_back(record_of(QueueIndex{i}));
  return record;
}

QueueRecord Port::record_of(QueueIndex queue) const {
  const Queue& state = queues_[number(queue)];
  QueueRecord record{.size = state.size ? state.size->entries() : 0U,
                     .addresses = state.addresses,
                     .place = {},
                     .started = state.started,
                     .enabled = state.enabled,
                     .device = device_of(state).info().name,
                     .start = state.start,
                     .preferred = slots_[state.wanted.slot].device->info().name,
                     .device_queue = number(state.bound.queue),
                     .preferred_queue = number(state.wanted.queue),
                     .path = state.wanted.path};
  if (!state.size || !state.addresses) return record;
  const auto ring = ring_of(queue, state);
  if (!ring) return record;
  auto at = std::optional(ring->descriptors);
  if (is_translated()) {
    const auto first = ring_map()->translate(ring->descriptors, 1);
    at = first ? memory::Translator(memory_).iova_of(*first) : std::nullopt;
  }
  if (!at) return record;
  for (const memory::Region& region : memory_->regions()) {
    const std::uint64_t inside = at->value() - region.iova.value();
    if (inside < region.size) record.place = MemoryPlace{.file = region.identity, .offset = region.offset + inside};
  }
  return record;
}

// --- Keeping --------------------------------------------------------------------------------------------------------

void Port::save() {
  if (config_.state && !is_taking_over_) write_record(record());
}

/// Before the queue runs: what it leaves behind must not be found without a record of it.
void Port::save_starting(QueueIndex queue) {
  if (!config_.state) return;
  PortRecord next = record();
  next.queues[number(queue)].started = true;
  write_record(next);
}

void Port::write_record(const PortRecord& record) {
  auto bytes = encode(record);
  if (bytes == saved_) return;
  auto done = config_.state->save(record_name(name()), bytes);
  saved_ = std::move(bytes);
  if (done) return;
  saved_.clear();
  if (log_limit_.allow()) {
    log::error("port {}: what it knows of its driver is not kept, so that a crash would lose it: {}", name(),
               done.error().text());
  }
}

// --- Coming back ----------------------------------------------------------------------------------------------------

Result<void> Port::check_offer(const PortRecord& record) const {
  std::vector<std::string> missing;
  if (record.type != info().type) missing.emplace_back("the device type");
  if (const auto features = record.features.minus(offered_features()); features != FeatureSet()) {
    missing.push_back(fmt::format("features {}", virtio::text(info().type, features)));
  }
  for (std::size_t i = 0; i < record.queues.size(); ++i) {
    const QueueRecord& queue = record.queues[i];
    if (!queue.started) continue;
    if (i >= queues_.size()) missing.push_back(fmt::format("queue {}", i));
    if (queue.size > info().largest_ring) missing.push_back(fmt::format("queue {} with {} entries", i, queue.size));
  }
  if (!record.config.empty() && record.config.rbegin()->first >= info().config_size) {
    missing.push_back(fmt::format("configuration space of {} bytes", record.config.rbegin()->first + 1));
  }
  if (missing.empty()) return {};
  return fail(Errc::not_supported, fmt::format("the driver that this port had uses what is no longer offered: {}",
                                               fmt::join(missing, "; ")));
}

void Port::bind_as(const PortRecord& record) {
  for (std::size_t i = 0; i < std::min<std::size_t>(info().queues, record.queues.size()); ++i) {
    const QueueRecord& queue = record.queues[i];
    const auto find_place = [&](const std::string& device, std::uint16_t number) -> std::optional<Binding> {
      const auto slot = find_slot(device);
      if (!slot || !has_queue(*slot, QueueIndex{number})) return std::nullopt;
      if (*slot + 1 == slots_.size() && number != i) return std::nullopt;  // it has become the last one since
      return Binding{.slot = *slot, .queue = QueueIndex{number}, .path = queue.path};
    };
    if (const auto wanted = find_place(queue.preferred, queue.preferred_queue)) queues_[i].wanted = *wanted;
    if (const auto bound = find_place(queue.device, queue.device_queue)) {
      queues_[i].bound = *bound;
      continue;
    }
    log::warn("port {} queue {}: device '{}', to which it was bound, is no longer there", name(), i, queue.device);
  }
  rebinds_ = record.rebinds;
}

Result<void> Port::restore(PortRecord record) {
  CW_CHECK(check_offer(record));
  bind_as(record);
  if (record.has_driver()) former_ = std::move(record);
  return {};
}

/// Finds out whether the driver that was here has come back, at its first queue, and whether this queue goes on.
void Port::meet_former(QueueIndex queue, Queue& state) {
  if (!former_) return;
  const PortRecord now = record();
  const std::size_t index = number(queue);
  const bool is_back = former_->features == now.features && index < former_->queues.size() &&
                       is_same_ring(former_->queues[index], now.queues[index]);
  if (!std::exchange(has_met_former_, true)) {
    differences_ = differences(*former_, now);
    if (is_back) {
      inherit(*former_);
      log::info("port {}: the driver that it had is back and goes on", name());
      differences_.clear();
    } else {
      log::info("port {}: another driver than before, which starts afresh: {}", name(), fmt::join(differences_, "; "));
    }
  }
  if (!is_back) return;
  // Once: should the driver stop the queue and start it again, it says itself where that resumes.
  state.resumes = std::exchange(former_->queues[index].started, false);
  state.is_as_before = state.resumes;
}

void Port::inherit(const PortRecord& former) {
  for (const auto& [topic, command] : former.control) {
    if (control_log_.contains(topic)) continue;
    if (fallback().device->control(command).ack == 0) {
      control_log_[topic] = command;
    } else {
      log::warn("port {}: device {} refused a control command that was accepted before", name(), info().name);
    }
  }
  for (const auto& [offset, value] : former.config) {
    if (config_written_.contains(offset)) continue;
    if (auto written = write_config(offset, std::span(&value, 1)); !written) {
      log::warn("port {}: configuration at offset {}: {}", name(), offset, written.error().text());
    }
  }
  if (former.mtu && !mtu_) {
    if (auto told = set_mtu(*former.mtu); !told) log::warn("port {}: {}", name(), told.error().text());
  }
}

}  // namespace causeway::port

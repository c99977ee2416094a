// A port that goes to another process while its queues run.

#include "port/port.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::port {
namespace {

Result<PortRecord> read_record(ParcelReader& from) {
  const auto bytes = from.bytes();
  return decode(bytes);
}

void write_inflight(ParcelWriter& to, const virtio::InflightRegion& region) {
  to.flag(region.layout() == virtio::Layout::packed);
  to.number(region.queues());
  to.number(std::uint32_t{region.entries().entries()});
  to.number(region.offset());
  to.number(region.size());
  to.descriptor(*region.file());
}

Result<virtio::InflightRegion> read_inflight(ParcelReader& from) {
  const auto layout = from.flag() ? virtio::Layout::packed : virtio::Layout::split;
  const auto queues = from.number<std::uint16_t>();
  CW_TRY(const auto entries, virtio::QueueSize::make(layout, from.number<std::uint32_t>()));
  const auto offset = from.number<std::uint64_t>();
  const auto size = from.number<std::uint64_t>();
  CW_TRY(auto file, from.descriptor());
  return virtio::InflightRegion::adopt(layout, queues, entries, std::move(file), offset, size);
}

}  // namespace

void Port::hand_over(ParcelWriter& parcel, RecordFormat format) const {
  parcel.bytes(encode(record(), format));
  parcel.flag(former_.has_value());
  if (former_) parcel.bytes(encode(*former_, format));
  parcel.flag(has_met_former_);
  for (const memory::Region& region : memory_->regions()) parcel.descriptor(*region.file);
  parcel.flag(inflight_.has_value());
  if (inflight_) write_inflight(parcel, *inflight_);
  for (const Queue& queue : queues_) {
    parcel.flag(queue.failed);
    write_event(parcel, queue.kick);
    write_event(parcel, queue.call);
    write_event(parcel, queue.err);
  }
}

Result<void> Port::take_over(ParcelReader& parcel) {
  is_taking_over_ = true;
  CW_TRY(const PortRecord record, read_record(parcel));
  if (record.port != name()) return fail(Errc::peer_violation, fmt::format("it is that of port '{}'", record.port));
  if (parcel.flag()) {
    CW_TRY(former_, read_record(parcel));
  }
  has_met_former_ = parcel.flag();
  CW_CHECK(check_offer(record));
  if (former_) CW_CHECK(check_offer(*former_));
  if (record.queues.size() != queues_.size()) {
    return fail(Errc::not_supported,
                fmt::format("port {} had {} queues, and has {} now", name(), record.queues.size(), queues_.size()));
  }
  bind_as(record);
  std::vector<memory::Region> regions;
  for (const RegionRecord& region : record.memory) {
    CW_TRY(auto file, parcel.descriptor());
    CW_TRY(auto mapped, memory::Region::map(memory::Iova(region.iova), memory::FrontendVa(region.frontend_va),
                                            region.size, std::move(file), region.offset));
    regions.push_back(std::move(mapped));
  }
  CW_CHECK(set_features(record.features));
  CW_CHECK(set_memory(std::move(regions)));
  if (record.status != Status::reset) CW_CHECK(set_status(record.status));
  inherit(record);
  if (parcel.flag()) {
    CW_TRY(inflight_, read_inflight(parcel));
  }
  for (std::uint16_t i = 0; i < queues_.size(); ++i) CW_CHECK(take_queue_over(QueueIndex{i}, record.queues[i], parcel));
  return {};
}

Result<void> Port::take_queue_over(QueueIndex queue, const QueueRecord& record, ParcelReader& parcel) {
  Queue& state = queues_[number(queue)];
  if (record.size != 0) {
    CW_TRY(state.size, virtio::QueueSize::make(virtio::layout_of(features_), record.size));
  }
  state.addresses = record.addresses;
  state.start = record.start;
  state.enabled = record.enabled;
  const bool has_failed = parcel.flag();
  CW_TRY(state.kick, read_event<KickFd>(parcel));
  CW_TRY(state.call, read_event<CallFd>(parcel));
  CW_TRY(state.err, read_event<ErrFd>(parcel));
  if (!record.started) return {};
  if (has_failed) {
    state.started = state.failed = true;
    return {};
  }
  // Behind an IOMMU it is not known here where the ring lies: that is asked for once it starts.
  CW_CHECK(is_translated() ? place_of(queue, state) : ring_of(queue, state));
  paused_.push_back(number(queue));
  return {};
}

void Port::pause(ParcelWriter& positions) {
  paused_ = pause_all();
  positions.number(static_cast<std::uint32_t>(paused_.size()));
  for (const std::uint16_t queue : paused_) {
    positions.number(queue);
    write(positions, *queues_[queue].start);
  }
}

Result<void> Port::start_at(ParcelReader& positions) {
  const std::uint32_t count = positions.count(sizeof(std::uint16_t));
  for (std::uint32_t i = 0; i < count && !positions.has_failed(); ++i) {
    const auto queue = positions.number<std::uint16_t>();
    QueueState position;
    read(positions, position);
    if (std::ranges::find(paused_, queue) == paused_.end()) {
      positions.refuse(fmt::format("a position of queue {}, which did not run", queue));
      break;
    }
    queues_[queue].start = std::move(position);
  }
  if (count < paused_.size()) positions.refuse("a queue without a position");
  if (positions.has_failed()) return positions.finish();
  resume(std::exchange(paused_, {}));
  is_taking_over_ = false;
  save();
  return {};
}

void Port::go_on(bool has_run) {
  for (const std::uint16_t queue : paused_) {
    if (!has_run) continue;
    Queue& state = queues_[queue];
    if (auto position = recover_state(QueueIndex{queue}, state)) {
      state.start = std::move(*position);
    } else {
      log::warn("port {} queue {}: {}; goes on where it was paused", name(), queue, position.error().text());
    }
  }
  resume(std::exchange(paused_, {}));
}

}  // namespace causeway::port

// What the function is; features, status, configuration space, memory.
#include "virtio_pci/device.h"

#include "base/log.h"
#include "virtio/blk.h"
#include "virtio/net.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace causeway::virtio_pci {
namespace {

using virtio::Feature;
using virtio::FeatureSet;

/// Bits that the function and its user agree on between themselves: no driver of a guest is asked.
constexpr FeatureSet kTransport{Feature::access_platform, Feature::order_platform, Feature::ring_reset};
/// Bits that would change what a doorbell is written with, or what it means.
constexpr FeatureSet kUnwanted{Feature::sr_iov, Feature::notification_data};
constexpr unsigned kNotifConfigData = 39;
constexpr unsigned kAdminQueue = 41;

}  // namespace

std::unique_ptr<Device> Device::make_absent(Loop& loop, DeviceConfig config) {
  return std::unique_ptr<Device>(new Device(loop, std::move(config)));
}

Result<std::unique_ptr<Device>> Device::make(Loop& loop, std::unique_ptr<vfio::Bus> bus, DeviceConfig config) {
  auto device = make_absent(loop, std::move(config));
  CW_CHECK(device->use(std::move(bus)));
  return device;
}

Device::Device(Loop& loop, DeviceConfig config) : loop_(loop), config_(std::move(config)) {
  info_.name = config_.name;
  info_.type = config_.type;
  info_.queues = config_.queues;
  gone_ = Error{.code = Errc::gone, .what = fmt::format("device {}: no function is there", config_.name)};
}

Device::~Device() {
  if (!bus_) return;
  bus_->set_observer(nullptr);
  if (gone_) return;
  if (auto done = reset(); !done) log::warn("device {}: {}", config_.name, done.error().text());
}

Result<void> Device::use(std::unique_ptr<vfio::Bus> bus) {
  const std::string where = fmt::format("device {} ({})", config_.name, bus->info().name);
  let_go();
  bus_ = std::move(bus);
  if (auto learned = learn(); !learned) {
    let_go();
    return fail(std::move(learned).error().context(where));
  }
  bus_->set_observer(this);
  gone_.reset();
  if (std::exchange(has_been_there_, true)) log::info("{}: is back", where);
  if (observer_ != nullptr) observer_->device_back();
  return {};
}

void Device::let_go() {
  if (!gone_ || !bus_) return;
  control_.reset();
  bells_.clear();
  written_.clear();
  calls_.clear();
  ring_state_.reset();
  common_.reset();
  layout_.reset();
  bus_.reset();
}

void Device::set_observer(vdpa::DeviceObserver* observer) {
  observer_ = observer;
  tell_soon_.reset();
  if (observer == nullptr || !gone_) return;
  tell_soon_.emplace(loop_.after(std::chrono::milliseconds(0), [this] {
    if (gone_) observer_->device_gone(*gone_);
  }));
}

Result<void> Device::learn() {
  std::vector<std::byte> space(kConfigSpaceBytes);
  // Four bytes at a time, as configuration space is read.
  for (std::size_t at = 0; at < space.size(); at += 4) {
    CW_CHECK(bus_->read(vfio::RegionIndex::config, at, std::span(space).subspan(at, 4)));
  }
  CW_TRY(layout_, parse_config_space(space, bus_->info()));
  if (layout_->type != config_.type) return fail(Errc::not_supported, "it is of another device type");
  std::uint16_t command = kCommandMemory | kCommandBusMaster;
  CW_CHECK(bus_->write(vfio::RegionIndex::config, kCommand, std::as_bytes(std::span(&command, 1))));
  common_.emplace(*bus_, layout_->common);
  ring_state_.reset();
  control_index_ = 0;
  statistics_.forget_types();
  statistics_fault_.clear();
  if (layout_->ring_state) ring_state_.emplace(*bus_, *layout_->ring_state);
  CW_CHECK(reset());
  CW_TRY(offered_, read_features());
  if (!offered_.has(Feature::version_1)) return fail(Errc::not_supported, "it is a legacy function");
  CW_TRY(auto info, describe());
  if (has_been_there_) {
    const auto missing = info_.features.minus(info.features);
    const bool is_smaller =
        info.queues < info_.queues || info.largest_ring < info_.largest_ring || info.config_size < info_.config_size;
    if (missing != FeatureSet() || is_smaller) {
      return fail(Errc::not_supported,
                  fmt::format("it offers less than the one before: {} queues of {} entries, without {}", info.queues,
                              info.largest_ring, text(info.type, missing)));
    }
  } else {
    info_ = std::move(info);
  }
  return listen();
}

Result<void> Device::listen() {
  CW_CHECK(bus_->enable_vectors(vectors_));
  CW_TRY(config_event_, EventFd::make());
  CW_CHECK(bus_->set_vector(0, &config_event_->fd()));
  watch_config_.emplace(loop_.watch(config_event_->fd(), [this] { on_config_event(); }));
  return {};
}

Result<FeatureSet> Device::read_features() const {
  std::uint64_t bits = 0;
  for (std::uint32_t half = 0; half < 2; ++half) {
    CW_CHECK(common_->set(&CommonCfg::device_feature_select, half));
    CW_TRY(const std::uint32_t word, common_->get(&CommonCfg::device_feature));
    bits |= std::uint64_t{word} << (32 * half);
  }
  return FeatureSet(bits);
}

Result<vdpa::DeviceInfo> Device::describe() {
  FeatureSet usable = offered_.minus(kTransport).minus(kUnwanted).without(kNotifConfigData).without(kAdminQueue);
  if (!ring_state_) usable = usable.without(Feature::ring_packed);
  if (layout_->type == virtio::DeviceType::net) usable = usable.without(virtio::NetFeature::device_stats);
  CW_TRY(const std::uint16_t queues, count_queues(usable));
  std::uint32_t largest = config_.largest_ring;
  for (std::uint16_t i = 0; i < queues; ++i) {
    CW_CHECK(common_->set(&CommonCfg::queue_select, i));
    CW_TRY(const std::uint16_t entries, common_->get(&CommonCfg::queue_size));
    if (entries == 0) return fail(Errc::not_supported, fmt::format("queue {} has no entries", i));
    largest = std::min<std::uint32_t>(largest, entries);
  }
  const bool has_control = control_index_ != 0;
  vectors_ = std::min<std::uint32_t>(bus_->info().vectors, queues + 1U + (has_control ? 1U : 0U));
  if (vectors_ < queues + 1U) {
    return fail(Errc::not_supported, fmt::format("it has {} MSI-X vectors, too few for {} queues", vectors_, queues));
  }
  const auto& iovas = bus_->info().iovas;
  return vdpa::DeviceInfo{
      .name = config_.name,
      .type = layout_->type,
      .features = usable,
      .queues = queues,
      .queues_per_unit = static_cast<std::uint16_t>(layout_->type == virtio::DeviceType::net ? 2 : 1),
      .largest_ring = largest,
      .config_size = layout_->device ? static_cast<std::uint32_t>(layout_->device->bytes) : 0,
      .iova_first = iovas.front().first,
      .iova_last = iovas.back().last,
      .can = {.reports_state = ring_state_.has_value()}};
}

/// Data queues, of which no more are used than are wanted; finds the control queue behind them.
Result<std::uint16_t> Device::count_queues(FeatureSet offered) {
  CW_TRY(const std::uint16_t all, common_->get(&CommonCfg::num_queues));
  std::uint16_t queues = all;
  if (layout_->type == virtio::DeviceType::net) {
    std::uint16_t pairs = 1;
    if (offered.has(virtio::NetFeature::mq)) {
      CW_CHECK(
          read_space(offsetof(virtio::NetConfig, max_virtqueue_pairs), std::as_writable_bytes(std::span(&pairs, 1))));
    }
    queues = static_cast<std::uint16_t>(2 * std::min<std::uint16_t>(pairs, all / 2));
    if (offered.has(virtio::NetFeature::ctrl_vq) && queues < all) control_index_ = queues;
  } else if (layout_->device && offered.has(virtio::BlkFeature::mq)) {
    queues = all;
  }
  queues = std::min(queues, config_.queues);
  if (queues == 0) return fail(Errc::not_supported, "it has no queues");
  return queues;
}

Result<void> Device::write_status(std::uint8_t status) {
  CW_CHECK(common_->set(&CommonCfg::device_status, status));
  function_status_ = status;
  return {};
}

/// The function forgets its queues. Memory stays mapped.
Result<void> Device::reset() {
  CW_CHECK(write_status(0));
  const auto deadline = std::chrono::steady_clock::now() + config_.patience;
  for (;;) {
    CW_TRY(const std::uint8_t status, common_->get(&CommonCfg::device_status));
    if (status == 0) break;  // 4.1.4.3.2: only then has it been reset
    if (std::chrono::steady_clock::now() > deadline) return fail(Errc::gone, "it does not reset");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  control_.reset();
  finish_asking();
  if (ring_state_) ring_state_->forget();
  written_.clear();
  negotiated_.reset();
  return {};
}

FeatureSet Device::transport_features() const {
  return offered_ & (kTransport | FeatureSet{Feature::version_1});
}

Result<void> Device::set_features(FeatureSet features) {
  if (gone_) return fail(*gone_);
  if (!features.is_subset_of(info_.features)) {
    return fail(Errc::not_supported,
                fmt::format("device {} lacks {}", info_.name, text(info_.type, features.minus(info_.features))));
  }
  return negotiate(features);
}

Result<void> Device::negotiate(FeatureSet features) {
  using vdpa::Status;
  CW_CHECK(reset());
  CW_CHECK(write_status(std::to_underlying(Status::acknowledge)));
  CW_CHECK(write_status(std::to_underlying(Status::acknowledge | Status::driver)));
  const std::uint64_t bits = (features | transport_features() | own_features()).bits();
  for (std::uint32_t half = 0; half < 2; ++half) {
    CW_CHECK(common_->set(&CommonCfg::driver_feature_select, half));
    CW_CHECK(common_->set(&CommonCfg::driver_feature, static_cast<std::uint32_t>(bits >> (32 * half))));
  }
  const Status accepted = Status::acknowledge | Status::driver | Status::features_ok;
  CW_CHECK(write_status(std::to_underlying(accepted)));
  CW_TRY(const std::uint8_t status, common_->get(&CommonCfg::device_status));
  if (!has(Status{status}, Status::features_ok)) {
    return fail(Errc::not_supported,
                fmt::format("device {} refuses the features {}", info_.name, text(info_.type, features)));
  }
  CW_CHECK(common_->set(&CommonCfg::config_msix_vector, std::uint16_t{0}));
  negotiated_ = features;
  return {};
}

Result<void> Device::set_status(vdpa::Status status) {
  status_ = status;
  if (status != vdpa::Status::reset) return {};
  queues_.clear();
  last_states_.clear();
  if (gone_) return {};
  CW_CHECK(reset());
  return take_calls_back();
}

Result<void> Device::read_config(std::uint32_t offset, std::span<std::byte> to) const {
  if (gone_) return fail(*gone_);
  return read_space(offset, to);
}

Result<void> Device::read_space(std::uint32_t offset, std::span<std::byte> to) const {
  if (!layout_->device || offset > layout_->device->bytes || to.size() > layout_->device->bytes - offset) {
    return fail(Errc::peer_violation,
                fmt::format("device {}: configuration space ends before {}", config_.name, offset + to.size()));
  }
  // Read until nothing changes in between (4.1.4.3.2).
  for (int i = 0; i < 8; ++i) {
    CW_TRY(const std::uint8_t before, common_->get(&CommonCfg::config_generation));
    CW_CHECK(bus_->read(layout_->device->bar, layout_->device->offset + offset, to));
    CW_TRY(const std::uint8_t after, common_->get(&CommonCfg::config_generation));
    if (before == after) return {};
  }
  return fail(Errc::busy, fmt::format("device {}: its configuration space does not come to rest", config_.name));
}

Result<void> Device::write_config(std::uint32_t offset, std::span<const std::byte> from) {
  if (gone_) return {};
  if (!layout_->device || offset > layout_->device->bytes || from.size() > layout_->device->bytes - offset) {
    return fail(Errc::peer_violation,
                fmt::format("device {}: configuration space ends before {}", config_.name, offset + from.size()));
  }
  return bus_->write(layout_->device->bar, layout_->device->offset + offset, from);
}

void Device::on_config_event() {
  config_event_->drain();
  ++generation_;
  const auto status = common_->get(&CommonCfg::device_status);
  if (status && has(vdpa::Status{*status}, vdpa::Status::needs_reset)) {
    bus_wanted_back();
    return leave({.code = Errc::gone, .what = "it needs a reset"});
  }
  if (observer_ != nullptr) observer_->config_changed();
}

/// Queues that stop in order need no guess of where they stood.
void Device::bus_wanted_back() {
  if (gone_) return;
  for (auto& [index, queue] : queues_) {
    if (!queue.started) continue;
    if (auto state = halt(index, queue, vdpa::StopMode::leave)) {
      queue.setup.ring.start = *std::move(state);
    } else {
      log::warn("device {} queue {}: {}", info_.name, virtio::number(index), state.error().text());
      queue.started = true;  // perhaps still
    }
  }
  tell_soon_.reset();  // whoever called tells why
}

void Device::bus_gone(Error reason) {
  leave(std::move(reason));
}

/// The function works no more, or cannot go on.
void Device::leave(Error reason) {
  if (gone_) return;
  watch_config_.reset();
  last_states_.clear();
  for (auto& [index, queue] : queues_) {
    queue.watch_kick.reset();
    if (!queue.started) {
      last_states_.insert_or_assign(index, queue.setup.ring.start);
      continue;
    }
    if (!ring_state_ || !ring_state_->keeps(index, queue.setup.ring)) continue;
    if (auto state = ring_state_->state(index, queue.setup.ring, *map_)) {
      last_states_.insert_or_assign(index, std::move(*state));
    } else {
      log::warn("device {} queue {}: {}", info_.name, virtio::number(index), state.error().text());
    }
  }
  queues_.clear();
  bells_.clear();
  calls_.clear();
  // What is mapped in the function went with it, or is not reached by it any more; who brings it back maps it again.
  map_ = memory::MemoryMap::empty();
  negotiated_.reset();
  finish_asking();
  gone_ = std::move(reason);
  gone_->code = Errc::gone;
  if (observer_ != nullptr) observer_->device_gone(*gone_);
  if (config_.on_gone) config_.on_gone();
}

std::optional<vdpa::QueueState> Device::last_state(virtio::QueueIndex queue) const {
  const auto found = last_states_.find(queue);
  return found == last_states_.end() ? std::nullopt : std::optional(found->second);
}

Result<void> Device::map(std::span<const memory::Region> regions) {
  if (gone_) return {};
  std::vector<memory::Region> all = map_->regions();
  all.insert(all.end(), regions.begin(), regions.end());
  CW_TRY(auto map, memory::MemoryMap::make(std::move(all)));
  for (std::size_t i = 0; i < regions.size(); ++i) {
    auto mapped = bus_->dma_map(regions[i]);
    if (mapped) continue;
    for (std::size_t done = 0; done < i; ++done) {
      if (auto undone = bus_->dma_unmap(regions[done]); !undone) {
        log::error("device {}: {}", info_.name, undone.error().text());
      }
    }
    return mapped;
  }
  map_ = std::move(map);
  return {};
}

Result<void> Device::unmap(std::span<const memory::Region> regions) {
  if (gone_) return {};
  std::vector<memory::Region> rest = map_->regions();
  std::erase_if(rest, [&](const memory::Region& region) {
    return std::ranges::any_of(regions, [&](const memory::Region& gone) { return gone.same_as(region); });
  });
  CW_TRY(auto map, memory::MemoryMap::make(std::move(rest)));
  for (auto& [index, queue] : queues_) {
    if (!queue.started || virtio::RingAreas::locate(queue.setup.ring, *map)) continue;
    if (auto state = halt(index, queue, vdpa::StopMode::drain); !state) {
      log::warn("device {}: {}", info_.name, state.error().text());
    }
  }
  map_ = std::move(map);
  Result<void> outcome;
  for (const memory::Region& region : regions) {
    if (auto done = bus_->dma_unmap(region); !done) outcome = std::move(done);
  }
  return outcome;
}

}  // namespace causeway::virtio_pci

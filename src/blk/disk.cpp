#include "blk/disk.h"

#include "base/log.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstddef>

namespace causeway::blk {
namespace {

using vdpa::QueueIndex;
using virtio::BlkFeature;
using virtio::Feature;
using virtio::FeatureSet;

/// Longest request, in segments. With header and status it fits a ring of 128 entries.
constexpr std::uint32_t kSegments = 126;

Result<void> check(const DiskConfig& config, const Store& store) {
  const auto refuse = [&config](const std::string& why) {
    return fail(Errc::invalid_value, fmt::format("disk {}: {}", config.name, why));
  };
  const auto is_block = [](std::uint32_t size) { return std::has_single_bit(size) && size >= virtio::kSectorSize; };
  if (config.queues == 0 || config.queues > kMaxQueues)
    return refuse(fmt::format("{} queues; expected 1 to {}", config.queues, kMaxQueues));
  if (config.serial.size() > virtio::kBlkIdSize)
    return refuse(fmt::format("a serial number of {} bytes; at most {}", config.serial.size(), virtio::kBlkIdSize));
  if (!is_block(config.block_size) || config.block_size > kLargestBlock)
    return refuse(fmt::format("a block size of {}; expected a power of two from {} to {}", config.block_size,
                              virtio::kSectorSize, kLargestBlock));
  if (config.block_size % store.block_size() != 0)
    return refuse(fmt::format("a block size of {}; {} needs a multiple of {}", config.block_size, store.name(),
                              store.block_size()));
  const std::uint32_t physical = config.physical_block_size;
  if (physical != 0 && (!is_block(physical) || physical < config.block_size))
    return refuse(
        fmt::format("a physical block size of {}; expected a power of two, at least {}", physical, config.block_size));
  for (const std::uint32_t size : {config.least_io_size, config.best_io_size}) {
    if (size % config.block_size != 0) return refuse(fmt::format("an I/O size of {} is no multiple of a block", size));
  }
  return {};
}

FeatureSet features_of(const DiskConfig& config, const Store& store) {
  FeatureSet features = FeatureSet{Feature::version_1,         Feature::any_layout,      Feature::indirect_desc,
                                   Feature::event_idx,         Feature::access_platform, Feature::order_platform,
                                   Feature::notification_data, Feature::ring_reset,      Feature::ring_packed} |
                        FeatureSet{BlkFeature::seg_max, BlkFeature::blk_size, BlkFeature::flush, BlkFeature::topology,
                                   BlkFeature::config_wce};
  if (config.queues > 1) features = features.with(BlkFeature::mq);
  if (store.is_read_only()) return features.with(BlkFeature::ro);
  if (config.discard) features = features | FeatureSet{BlkFeature::discard, BlkFeature::write_zeroes};
  return features;
}

}  // namespace

Result<std::unique_ptr<Disk>> Disk::make(Loop& loop, std::vector<Worker*> workers, DiskConfig config,
                                         std::shared_ptr<Volume> volume) {
  CW_CHECK(check(config, volume->store()));
  return std::unique_ptr<Disk>(new Disk(loop, std::move(workers), std::move(config), std::move(volume)));
}

Disk::Disk(Loop& loop, std::vector<Worker*> workers, DiskConfig config, std::shared_ptr<Volume> volume)
    : loop_(loop),
      workers_(std::move(workers)),
      config_(std::move(config)),
      volume_(std::move(volume)),
      info_{.name = config_.name,
            .type = virtio::DeviceType::block,
            .features = features_of(config_, volume_->store()),
            .queues = config_.queues,
            .queues_per_unit = 1,
            .largest_ring = config_.largest_ring,
            .config_size = sizeof(virtio::BlkConfig),
            .can = {.logs_dirty = true, .record_in_flight = true}},
      writeback_(config_.writeback),
      map_(memory::MemoryMap::empty()),
      queues_(config_.queues),
      counters_(config_.queues) {
  std::ranges::copy(std::as_bytes(std::span(config_.serial)), serial_.begin());
}

Disk::~Disk() {
  *alive_ = false;
  if (auto done = set_status(vdpa::Status::reset); !done) log::warn("disk {}: {}", config_.name, done.error().text());
}

Result<void> Disk::set_features(FeatureSet features) {
  if (!features.is_subset_of(info_.features)) {
    return fail(Errc::not_supported, fmt::format("disk {} does not offer {}", config_.name,
                                                 virtio::text(info_.type, features.minus(info_.features))));
  }
  features_ = features;
  return {};
}

Result<void> Disk::set_status(vdpa::Status status) {
  status_ = status;
  if (status != vdpa::Status::reset) return {};
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i]) CW_CHECK(stop_queue(QueueIndex{i}, vdpa::StopMode::drain));
  }
  features_ = {};
  translations_.reset();
  writeback_ = config_.writeback;
  return {};
}

virtio::BlkConfig Disk::config_space() const {
  const std::uint32_t physical = std::max(config_.physical_block_size, config_.block_size);
  virtio::BlkConfig space{};
  space.capacity = volume_->store().bytes() / config_.block_size * (config_.block_size / virtio::kSectorSize);
  space.seg_max = kSegments;
  space.blk_size = config_.block_size;
  space.physical_block_exp = static_cast<std::uint8_t>(std::countr_zero(physical / config_.block_size));
  space.min_io_size = static_cast<std::uint16_t>(std::max(1U, config_.least_io_size / config_.block_size));
  space.opt_io_size = config_.best_io_size / config_.block_size;
  space.writeback = writeback_ ? 1 : 0;
  space.num_queues = config_.queues;
  space.max_discard_sectors = kMaxDiscardSectors;
  space.max_discard_seg = 1;
  space.discard_sector_alignment = physical / virtio::kSectorSize;
  space.max_write_zeroes_sectors = kMaxWriteZeroesSectors;
  space.max_write_zeroes_seg = 1;
  space.write_zeroes_may_unmap = 1;
  return space;
}

Result<void> Disk::read_config(std::uint32_t offset, std::span<std::byte> to) const {
  const virtio::BlkConfig space = config_space();
  const auto bytes = std::as_bytes(std::span(&space, 1));
  if (offset > bytes.size() || to.size() > bytes.size() - offset) {
    return fail(Errc::peer_violation,
                fmt::format("configuration bytes {} to {} of {}", offset, offset + to.size(), bytes.size()));
  }
  std::ranges::copy(bytes.subspan(offset, to.size()), to.begin());
  return {};
}

Result<void> Disk::write_config(std::uint32_t offset, std::span<const std::byte> from) {
  if (offset != offsetof(virtio::BlkConfig, writeback) || from.size() != 1) {
    return fail(Errc::not_supported, "of a disk's configuration space only writeback can be written");
  }
  // QEMU writes it whatever was negotiated, and keeps what the driver may do to itself.
  writeback_ = from[0] != std::byte{0};
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    if (!queues_[i]) continue;
    worker(QueueIndex{i}).run([&] { queues_[i]->set_writeback(is_writeback()); });
  }
  return {};
}

bool Disk::is_writeback() const {
  // Without CONFIG_WCE a driver that cannot flush has a cache that writes through (5.2.5.2).
  return features_.has(BlkFeature::config_wce) ? writeback_ : writeback_ && features_.has(BlkFeature::flush);
}

DriverChoices Disk::choices() const {
  return {.writeback = is_writeback(),
          .discards = features_.has(BlkFeature::discard),
          .writes_zeroes = features_.has(BlkFeature::write_zeroes),
          .read_only = volume_->store().is_read_only()};
}

void Disk::capacity_changed() {
  ++generation_;
  if (observer_ != nullptr) observer_->config_changed();
}

Result<void> Disk::map(std::span<const memory::Region> regions) {
  auto all = map_->regions();
  all.insert(all.end(), regions.begin(), regions.end());
  return replace_map(std::move(all), false);
}

Result<void> Disk::unmap(std::span<const memory::Region> regions) {
  auto all = map_->regions();
  std::erase_if(all, [&](const memory::Region& region) {
    return std::ranges::any_of(regions, [&](const memory::Region& gone) { return gone.same_as(region); });
  });
  return replace_map(std::move(all), true);
}

Result<void> Disk::replace_map(std::vector<memory::Region> regions, bool is_smaller) {
  // The old one lives until no request refers to it any more.
  const auto old = map_;
  CW_TRY(map_, memory::MemoryMap::make(std::move(regions)));
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    // What a translated queue has is the Port's to say; but what it has begun may be where memory goes away.
    if (!queues_[i] || (queues_[i]->is_translated() && !is_smaller)) continue;
    const QueueIndex queue{i};
    const auto& next = queues_[i]->is_translated() ? translations_ : map_;
    Result<void> replaced;
    worker(queue).run([&] { replaced = queues_[i]->replace_map(next, is_smaller); });
    if (replaced) continue;
    CW_CHECK(stop_queue(queue, vdpa::StopMode::leave));
    on_fault(queue, std::move(replaced).error());
  }
  return {};
}

Result<void> Disk::set_translations(const std::shared_ptr<const memory::MemoryMap>& map,
                                    const memory::IovaRange* gone) {
  translations_ = map;
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    if (!queues_[i] || !queues_[i]->is_translated()) continue;
    CW_CHECK(renew_translations(*queues_[i], worker(QueueIndex{i}), gone));
  }
  return {};
}

Result<void> Disk::renew_translations(DiskQueue& queue, Worker& host, const memory::IovaRange* gone) const {
  Result<void> replaced;
  bool is_in_use = false;
  host.run_anywhere([&] {
    const bool was_waiting = queue.is_waiting();
    is_in_use = gone != nullptr && queue.holds(*gone);
    if (!is_in_use) replaced = queue.replace_map(translations_, false);
    return was_waiting;
  });
  // To finish requests is for the worker's own thread: an io_uring belongs to it.
  if (is_in_use) host.run([&] { replaced = queue.replace_map(translations_, true); });
  return replaced;
}

Worker& Disk::worker(QueueIndex queue) const {
  return *workers_[number(queue) % workers_.size()];
}

Result<DiskQueue*> Disk::find_running(QueueIndex queue) const {
  if (number(queue) < queues_.size() && queues_[number(queue)]) return queues_[number(queue)].get();
  return fail(Errc::invalid_value, fmt::format("disk {}: queue {} does not run", config_.name, number(queue)));
}

Result<void> Disk::set_queue(QueueIndex queue, vdpa::QueueSetup setup) {
  if (number(queue) >= queues_.size()) {
    return fail(Errc::invalid_value, fmt::format("disk {} has no queue {}", config_.name, number(queue)));
  }
  auto& slot = queues_[number(queue)];
  if (slot) return fail(Errc::busy, fmt::format("disk {}: queue {} runs", config_.name, number(queue)));
  if (setup.is_translated && translations_ == nullptr) {
    return fail(Errc::not_supported, fmt::format("disk {} has been told of no translations", config_.name));
  }
  CW_TRY(slot, start_on_worker(queue, setup));
  return {};
}

Result<std::unique_ptr<DiskQueue>> Disk::start_on_worker(QueueIndex queue, const vdpa::QueueSetup& setup) {
  Result<std::unique_ptr<DiskQueue>> started;
  Worker& host = worker(queue);
  // There altogether: an io_uring belongs to the thread that makes it.
  host.run([&] {
    started = DiskQueue::start(setup, setup.is_translated ? translations_ : map_, *volume_, serial_, choices(),
                               counters_[number(queue)], event_handlers(queue));
    if (!started) return;
    if (auto watched = (*started)->watch(host); !watched) {
      (*started)->unwatch(host);
      started = fail(std::move(watched).error());
      return;
    }
    host.add(**started);
  });
  return started;
}

/// They come on the worker's thread: the Port hears of them on the control thread, if it still exists then.
DiskQueue::Events Disk::event_handlers(QueueIndex queue) {
  return {.on_fault =
              [this, alive = alive_, queue](virtio::RingFault fault) {
                loop_.post([this, alive, queue, fault] {
                  if (*alive)
                    on_fault(queue, Error{.code = Errc::peer_violation, .what = std::string(virtio::text(fault))});
                });
              },
          .on_miss =
              [this, alive = alive_, queue](std::vector<memory::Miss> misses, std::uint64_t renewals) {
                loop_.post([this, alive, queue, renewals, misses = std::move(misses)] {
                  if (!*alive || observer_ == nullptr) return;
                  // Its map may be another by now: then the driver may have taken back what was missed.
                  const auto& waits = queues_[number(queue)];
                  if (waits && waits->renewals() == renewals) observer_->translations_missed(queue, misses);
                });
              }};
}

void Disk::on_fault(QueueIndex queue, Error reason) {
  if (observer_ != nullptr) observer_->queue_failed(queue, std::move(reason));
}

Result<void> Disk::enable_queue(QueueIndex queue, bool enabled) {
  auto found = find_running(queue);
  if (!found) return enabled ? fail(std::move(found).error()) : Result<void>();
  worker(queue).run([&] { (*found)->set_enabled(enabled); });
  return {};
}

Result<void> Disk::set_call(QueueIndex queue, std::optional<CallFd> call) {
  CW_TRY(DiskQueue * running, find_running(queue));
  worker(queue).run([&] { running->set_call(std::move(call)); });
  return {};
}

Result<vdpa::QueueState> Disk::stop_queue(QueueIndex queue, vdpa::StopMode mode) {
  CW_CHECK(find_running(queue));
  auto& slot = queues_[number(queue)];
  Worker& host = worker(queue);
  vdpa::QueueState state;
  host.run([&] {
    host.remove(*slot);
    slot->unwatch(host);
    state = slot->stop(mode);
    slot.reset();
  });
  return state;
}

std::vector<vdpa::Counter> Disk::counters(QueueIndex queue) const {
  return number(queue) < counters_.size() ? counters_[number(queue)].report() : std::vector<vdpa::Counter>{};
}

}  // namespace causeway::blk

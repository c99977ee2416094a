#include "daemon/disks.h"

#include "base/log.h"

#include <fmt/format.h>

#include <utility>

#include "blk/file_store.h"
#include "blk/ram_store.h"

namespace causeway::daemon {
namespace {

Result<std::shared_ptr<blk::Store>> open_store(const config::DiskPortConfig& disk, std::optional<OwnedFd> inherited) {
  using enum config::DiskPortConfig::Store;
  switch (disk.store) {
    case file: {
      CW_TRY(auto store,
             blk::FileStore::open(
                 {.path = disk.path, .read_only = disk.read_only, .direct = disk.direct, .shared = disk.shared},
                 std::move(inherited)));
      return store;
    }
    case ram: {
      CW_TRY(auto store, blk::RamStore::make(disk.bytes, std::move(inherited)));
      return store;
    }
    case null:
      break;
  }
  return std::make_shared<blk::NullStore>(disk.bytes);
}

}  // namespace

std::string Disks::store_name(const config::DiskPortConfig& disk) {
  using enum config::DiskPortConfig::Store;
  if (disk.store == file) return "file:" + disk.path;
  return fmt::format("{}:{}", disk.store == ram ? "ram" : "null", disk.bytes);
}

Result<std::unique_ptr<Disks>> Disks::open(const config::PortConfig& port, std::vector<Worker*> workers,
                                           std::optional<OwnedFd> inherited) {
  CW_TRY(auto store, open_store(*port.disk, std::move(inherited)));
  return std::unique_ptr<Disks>(new Disks(port, std::move(workers), std::move(store)));
}

Disks::Disks(const config::PortConfig& port, std::vector<Worker*> workers, std::shared_ptr<blk::Store> store)
    : config_{.name = {},
              .queues = port.disk->queues,
              .largest_ring = port.queue_size,
              .serial = port.disk->serial,
              .block_size = port.disk->block_size,
              .physical_block_size = port.disk->physical_block_size,
              .least_io_size = port.disk->least_io_size,
              .best_io_size = port.disk->best_io_size,
              .writeback = port.disk->writeback,
              .discard = port.disk->discard},
      workers_(std::move(workers)),
      volume_(std::make_shared<blk::Volume>(port.name, std::move(store), port.disk->limits)) {}

Result<std::unique_ptr<vdpa::Device>> Disks::make(Loop& loop, const std::string& name) {
  blk::DiskConfig config = config_;
  config.name = name;
  CW_TRY(auto disk, blk::Disk::make(loop, workers_, std::move(config), volume_));
  disks_.push_back(disk.get());
  return std::unique_ptr<vdpa::Device>(std::move(disk));
}

Result<std::uint64_t> Disks::resize() {
  const std::uint64_t before = bytes();
  CW_CHECK(volume_->store().refresh());
  if (bytes() != before) {
    log::info("{}: {} bytes, {} before", volume_->store().name(), bytes(), before);
    for (blk::Disk* disk : disks_) disk->capacity_changed();
  }
  return bytes();
}

}  // namespace causeway::daemon

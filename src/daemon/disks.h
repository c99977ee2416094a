// The software disks of one port, and what they are connected to.
#pragma once

#include "base/loop.h"
#include "base/worker.h"
#include "daemon/config/config.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blk/disk.h"
#include "blk/volume.h"

namespace causeway::daemon {

/// Knows the Disks that belong to a port's volume; the Disks are the port's, which must outlive this. Thread: control.
class Disks {
 public:
  /// Opens the store. `workers`: those of the configuration, in its order. `inherited`: the store's descriptor in the
  /// process before.
  static Result<std::unique_ptr<Disks>> open(const config::PortConfig& port, std::vector<Worker*> workers,
                                             std::optional<OwnedFd> inherited);
  /// What the store is, for people and for a process that takes over: "file:/srv/disk.img".
  static std::string store_name(const config::DiskPortConfig& disk);

  /// One more software Device called `name`.
  Result<std::unique_ptr<vdpa::Device>> make(Loop& loop, const std::string& name);
  /// Looks at the store's size again and tells the driver when it has changed. Returns the size in bytes.
  Result<std::uint64_t> resize();
  std::uint64_t bytes() const { return volume_->store().bytes(); }
  /// What a process that takes over must be given; nullptr: nothing.
  const OwnedFd* descriptor() const { return volume_->store().descriptor(); }

 private:
  Disks(const config::PortConfig& port, std::vector<Worker*> workers, std::shared_ptr<blk::Store> store);

  blk::DiskConfig config_;
  std::vector<Worker*> workers_;
  std::shared_ptr<blk::Volume> volume_;
  std::vector<blk::Disk*> disks_;
};

}  // namespace causeway::daemon

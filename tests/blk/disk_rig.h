// A port with software disks on one volume, and a driver on it.
#pragma once

#include "base/loop.h"
#include "base/worker.h"
#include "port/port.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "blk/disk.h"
#include "blk/volume.h"
#include "support/blk_driver.h"
#include "support/guest_memory.h"

namespace causeway::testing {

inline std::vector<std::byte> pattern(std::size_t bytes, unsigned seed) {
  std::vector<std::byte> data(bytes);
  std::ranges::generate(data, [seed]() mutable {
    seed = seed * 1664525U + 1013904223U;
    return static_cast<std::byte>(seed >> 24);
  });
  return data;
}

struct DiskRigConfig {
  BlkDriverConfig driver = {};
  blk::DiskConfig disk = {.name = {}, .serial = {}};
  blk::RateLimits limits = {};
  std::shared_ptr<const port::StateDirectory> state = nullptr;
  /// Puts something around the first disk.
  std::function<std::unique_ptr<vdpa::Device>(std::unique_ptr<vdpa::Device>)> wrap = nullptr;
};

/// Members in the order in which they depend on each other.
struct DiskRig {
  DiskRig(std::shared_ptr<blk::Store> a_store, DiskRigConfig a_config)
      : first(value_or_die(Worker::start({.name = "w0", .cpu = {}}))),
        second(value_or_die(Worker::start({.name = "w1", .cpu = {}}))),
        config(std::move(a_config)),
        store(std::move(a_store)),
        volume(std::make_shared<blk::Volume>("disk0", store, config.limits)) {
    config.disk.queues = config.driver.queues;
    make_port();
    driver = value_or_die(BlkDriver::plug_in(*port, config.driver));
  }

  /// A port with new Devices; the one before must be gone.
  void make_port() {
    disks.clear();
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    for (const char* name : {"soft-a", "soft-b"}) {
      config.disk.name = name;
      auto disk = value_or_die(blk::Disk::make(loop, {first.get(), second.get()}, config.disk, volume));
      disks.push_back(disk.get());
      devices.push_back(std::move(disk));
      if (config.wrap && devices.size() == 1) devices.front() = config.wrap(std::move(devices.front()));
    }
    port = value_or_die(port::Port::make(
        loop, {.name = "disk0", .features_off = {}, .state = config.state, .relay_worker = first.get()},
        std::move(devices)));
  }

  Loop loop;
  std::unique_ptr<Worker> first;
  std::unique_ptr<Worker> second;
  DiskRigConfig config;
  std::shared_ptr<blk::Store> store;
  std::shared_ptr<blk::Volume> volume;
  std::vector<blk::Disk*> disks;
  std::unique_ptr<port::Port> port;
  std::unique_ptr<BlkDriver> driver;
};

inline std::uint64_t counter(const DiskRig& rig, std::uint16_t queue, std::string_view name) {
  std::uint64_t sum = 0;
  for (const blk::Disk* disk : rig.disks) {
    for (const vdpa::Counter& each : disk->counters(vdpa::QueueIndex{queue})) {
      if (each.name == name) sum += each.value;
    }
  }
  return sum;
}

}  // namespace causeway::testing

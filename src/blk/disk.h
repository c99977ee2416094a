// The software disk: a vdpa::Device whose request queues are worked by one or several workers.
// Spec: virtio 1.3 section 5.2.
#pragma once

#include "base/loop.h"
#include "base/worker.h"
#include "vdpa/device.h"
#include "virtio/blk.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blk/disk_queue.h"
#include "blk/volume.h"

namespace causeway::blk {

inline constexpr std::uint16_t kMaxQueues = 64;
inline constexpr std::uint32_t kLargestBlock = 4096;

struct DiskConfig {
  std::string name;
  std::uint16_t queues = 1;               ///< 1 to kMaxQueues
  std::uint32_t largest_ring = 1024;      ///< entries
  std::string serial;                     ///< at most kBlkIdSize bytes
  std::uint32_t block_size = 512;         ///< logical, bytes: a power of two from 512 to kLargestBlock
  std::uint32_t physical_block_size = 0;  ///< bytes: a power of two, at least block_size; 0: the same
  std::uint32_t least_io_size = 0;        ///< bytes, a multiple of block_size; 0: not told
  std::uint32_t best_io_size = 0;         ///< bytes, a multiple of block_size; 0: not told
  bool writeback = true;                  ///< how it starts; a driver with CONFIG_WCE changes it
  bool discard = true;                    ///< offers DISCARD and WRITE_ZEROES
};

/// Several Disks may share one Volume; each queue then runs on one of them at a time. Thread: control; queue i runs on
/// worker i modulo their number.
class Disk final : public vdpa::Device {
 public:
  /// Errc::invalid_value: the configuration contradicts itself or the store; the text names the disk. Loop and workers
  /// must outlive it; there is at least one worker.
  static Result<std::unique_ptr<Disk>> make(Loop& loop, std::vector<Worker*> workers, DiskConfig config,
                                            std::shared_ptr<Volume> volume);
  ~Disk() override;

  const vdpa::DeviceInfo& info() const override { return info_; }
  void set_observer(vdpa::DeviceObserver* observer) override { observer_ = observer; }
  Result<void> set_features(virtio::FeatureSet features) override;
  vdpa::Status status() const override { return status_; }
  Result<void> set_status(vdpa::Status status) override;
  Result<void> read_config(std::uint32_t offset, std::span<std::byte> to) const override;
  /// The driver may write `writeback` alone, with CONFIG_WCE.
  Result<void> write_config(std::uint32_t offset, std::span<const std::byte> from) override;
  std::uint32_t config_generation() const override { return generation_; }
  Result<void> map(std::span<const memory::Region> regions) override;
  Result<void> unmap(std::span<const memory::Region> regions) override;
  bool translates(vdpa::QueueIndex /*queue*/) const override { return true; }
  Result<void> set_translations(const std::shared_ptr<const memory::MemoryMap>& map,
                                const memory::IovaRange* gone) override;
  std::uint64_t translated(vdpa::QueueIndex queue) const override {
    return counters_[number(queue)].translated.value();
  }
  Result<void> set_queue(vdpa::QueueIndex queue, vdpa::QueueSetup setup) override;
  Result<void> enable_queue(vdpa::QueueIndex queue, bool enabled) override;
  Result<void> set_call(vdpa::QueueIndex queue, std::optional<CallFd> call) override;
  Result<vdpa::QueueState> stop_queue(vdpa::QueueIndex queue, vdpa::StopMode mode) override;
  vdpa::ControlReply control(std::span<const std::byte> /*command*/) override { return {.ack = 1}; }
  std::vector<vdpa::Counter> counters(vdpa::QueueIndex queue) const override;

  /// Tells the driver that the capacity is another one, after the volume has been refreshed.
  void capacity_changed();

 private:
  Disk(Loop& loop, std::vector<Worker*> workers, DiskConfig config, std::shared_ptr<Volume> volume);
  Worker& worker(vdpa::QueueIndex queue) const;
  Result<DiskQueue*> find_running(vdpa::QueueIndex queue) const;
  Result<std::unique_ptr<DiskQueue>> start_on_worker(vdpa::QueueIndex queue, const vdpa::QueueSetup& setup);
  Result<void> replace_map(std::vector<memory::Region> regions, bool is_smaller);
  Result<void> renew_translations(DiskQueue& queue, Worker& host, const memory::IovaRange* gone) const;
  DiskQueue::Events event_handlers(vdpa::QueueIndex queue);
  void on_fault(vdpa::QueueIndex queue, Error reason);
  DriverChoices choices() const;
  bool is_writeback() const;
  virtio::BlkConfig config_space() const;

  Loop& loop_;
  std::vector<Worker*> workers_;
  DiskConfig config_;
  std::shared_ptr<Volume> volume_;
  vdpa::DeviceInfo info_;
  SerialNumber serial_{};
  vdpa::DeviceObserver* observer_ = nullptr;
  virtio::FeatureSet features_;
  vdpa::Status status_ = vdpa::Status::reset;
  std::uint32_t generation_ = 0;
  bool writeback_;
  std::shared_ptr<const memory::MemoryMap> map_;
  std::shared_ptr<const memory::MemoryMap> translations_;  // behind an IOMMU, where there is one
  std::vector<std::unique_ptr<DiskQueue>> queues_;         // those that run
  std::vector<QueueCounters> counters_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for news from workers that come too late
};

}  // namespace causeway::blk

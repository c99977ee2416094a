// A guest's disk driver without a guest: the driver side of one port's block device, in this process.
#pragma once

#include "base/event_fd.h"
#include "port/port.h"
#include "vdpa/vfio_groups.h"
#include "virtio/blk.h"
#include "virtio/driver_queue.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "support/doorbell.h"

namespace causeway::testing {

struct BlkDriverConfig {
  virtio::FeatureSet features;  ///< to negotiate; VERSION_1 is always added
  std::uint16_t queues = 1;
  std::uint32_t ring_size = 64;
  bool rings_doorbells = false;             ///< maps those that it is offered, and kicks by them
  vdpa::VfioGroups* vfio_groups = nullptr;  ///< takes shares of those that it is offered; outlives it
};

/// One request. Readable bytes are `head` and `data`; writable ones `answer_bytes` and the status.
struct BlkRequest {
  virtio::BlkRequestType type;
  std::uint64_t sector = 0;
  std::vector<std::byte> data;     ///< sent behind the header
  std::uint32_t answer_bytes = 0;  ///< room for data from the device
  std::uint32_t piece = 0;         ///< size into which either part is cut; 0: header, data and status each in one
};

struct BlkCompletion {
  std::uint64_t token;
  virtio::BlkStatus status;
  std::vector<std::byte> data;
  std::uint32_t written;
};

/// Thread: the port's control thread.
class BlkDriver final : public port::DriverSide {
 public:
  static constexpr std::uint32_t kLargestData = 64 << 10;

  static Result<std::unique_ptr<BlkDriver>> plug_in(port::Port& port, BlkDriverConfig config);
  ~BlkDriver() override { port_->detach(); }

  /// Its port has died; goes on with another one, which it tells what a front-end that reconnects does.
  Result<void> move_to(port::Port& port);

  /// Makes a request visible and kicks; nothing when the ring is full. Returns its token.
  std::optional<std::uint64_t> submit(std::uint16_t queue, const BlkRequest& request);
  /// The next request that is done; nothing when there is none now.
  std::optional<BlkCompletion> reap(std::uint16_t queue);
  /// The same, but waits for it, half a minute at most; throws when none comes.
  BlkCompletion await(std::uint16_t queue);
  /// Submits one request and waits for its end. Nothing else may be under way on the queue.
  BlkCompletion run(std::uint16_t queue, const BlkRequest& request);

  std::uint32_t config_changes() const { return config_changes_; }
  void config_changed() override { ++config_changes_; }
  void memory_lost() override {}
  void offer_notify_area(virtio::QueueIndex queue, const vdpa::NotifyArea& area) override;
  void withdraw_notify_area(virtio::QueueIndex queue) override { doorbells_.erase(queue); }
  void offer_vfio_group(virtio::QueueIndex queue, const OwnedFd& group) override;
  void withdraw_vfio_group(virtio::QueueIndex queue) override { shares_.erase(queue); }
  port::Doorbell doorbell(virtio::QueueIndex queue) const override {
    return doorbells_.contains(queue) ? port::Doorbell::accepted : port::Doorbell::none;
  }
  /// How many kicks went to doorbells.
  std::uint64_t doorbells_rung() const { return doorbells_rung_; }
  /// How many queues have a share of a VFIO group.
  std::size_t vfio_shares() const { return shares_.size(); }

 private:
  static constexpr std::size_t kSlot = std::size_t{kLargestData} + 4096;
  struct Pending {
    memory::Iova answer;
    std::uint32_t answer_bytes;
  };
  struct Queue {
    virtio::RingConfig config;
    virtio::DriverQueue ring;
    KickFd kick;
    CallFd call;
    memory::Iova slots;
    std::vector<std::uint16_t> free;
    std::vector<Pending> pending;  // by slot
  };

  BlkDriver(port::Port& port, BlkDriverConfig config) : port_(&port), config_(config) {}
  Result<void> start();
  Result<void> start_queue(std::uint16_t index);
  Result<void> give(std::uint16_t index);
  void kick(std::uint16_t index);
  memory::Iova allocate(std::size_t bytes);
  memory::GuestSpan at(memory::Iova iova, std::size_t bytes) const;

  port::Port* port_;
  BlkDriverConfig config_;
  std::shared_ptr<const memory::MemoryMap> memory_;
  std::uint64_t allocated_ = 0;
  std::vector<Queue> queues_;
  std::uint32_t config_changes_ = 0;
  std::map<virtio::QueueIndex, Doorbell> doorbells_;
  std::uint64_t doorbells_rung_ = 0;
  std::map<virtio::QueueIndex, vdpa::VfioGroups::Share> shares_;
};

}  // namespace causeway::testing

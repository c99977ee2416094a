// One running request queue of a disk.
#pragma once

#include "base/worker.h"
#include "vdpa/device.h"
#include "virtio/device_queue.h"

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "blk/counters.h"
#include "blk/overlap_filter.h"
#include "blk/request.h"
#include "blk/volume.h"

namespace causeway::blk {

/// What the driver has negotiated and set. Value type.
struct DriverChoices {
  bool writeback = true;  ///< false: a change is durable before it is answered
  bool discards = false;
  bool writes_zeroes = false;
  bool read_only = false;
};

/// Takes requests, has them done, answers them; in whatever order they end.
///
/// Invariants: (1) a change that overlaps one still under way waits for its end, and all behind it: run again after a
/// crash, no older change can undo a newer one that was answered; (2) used entries are published once a pass, or more
/// often when requests are large; (3) a queue with a broken ring, or stopped, touches neither ring nor buffers. Thread:
/// its worker's, from start to end.
class DiskQueue final : public Task {
 public:
  using OnFault = std::function<void(virtio::RingFault)>;
  /// Called on the worker's thread: the queue takes nothing more until its map is replaced once more.
  using OnMiss = std::function<void(std::vector<memory::Miss>, std::uint64_t renewals)>;
  struct Events {
    OnFault on_fault;
    OnMiss on_miss;
  };

  /// `map` may be a translated one. `counters` and `volume` must outlive it.
  static Result<std::unique_ptr<DiskQueue>> start(const vdpa::QueueSetup& setup,
                                                  std::shared_ptr<const memory::MemoryMap> map, Volume& volume,
                                                  const SerialNumber& serial, DriverChoices choices,
                                                  QueueCounters& counters, Events events);

  std::uint32_t poll() override;
  bool arm() override;
  void disarm() override;

  void set_enabled(bool enabled) { enabled_ = enabled; }
  void set_call(std::optional<CallFd> call) { call_ = std::move(call); }
  void set_writeback(bool writeback) { choices_.writeback = writeback; }
  /// Goes on with another map. `is_smaller`: some of the memory goes away; requests under way are finished first.
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map, bool is_smaller);
  /// Whether a request that is not answered has a byte at these addresses of the driver's. Behind an IOMMU only.
  bool holds(const memory::IovaRange& range) const { return ring_.holds(range); }
  bool is_translated() const { return is_translated_; }
  /// It takes nothing until its map is replaced.
  bool is_waiting() const { return ring_.is_waiting(); }
  /// How often its map was replaced, behind an IOMMU.
  std::uint64_t renewals() const { return ring_.renewals(); }
  /// Ends all that the mode says, and says where the next user must resume.
  virtio::QueueState stop(vdpa::StopMode mode);

  /// Has what brings work wake the worker; `unwatch` before the end.
  Result<void> watch(Worker& worker) const;
  void unwatch(Worker& worker) const;

 private:
  DiskQueue(virtio::DeviceQueue ring, const vdpa::QueueSetup& setup, std::unique_ptr<Channel> channel, Volume& volume,
            const SerialNumber& serial, DriverChoices choices, QueueCounters& counters, Events events);
  RequestRules rules() const;
  std::uint32_t take_new();
  void accept(const virtio::Chain& chain, const RequestRules& rules);
  std::uint32_t start_waiting();
  bool may_start(const Request& request);
  bool overlaps(const Operation& operation) const;
  bool is_admitted(const Request& request);
  void start_operation(Request& request);
  void hand_over();
  std::uint32_t finish_done();
  void end(Request& request, virtio::BlkStatus status);
  void count(const Request& request, virtio::BlkStatus status);
  void publish();
  void fail(virtio::RingFault fault);
  void finish_all(bool with_waiting);

  virtio::DeviceQueue ring_;
  std::optional<KickFd> kick_;
  std::optional<CallFd> call_;
  std::unique_ptr<Channel> channel_;
  Volume& volume_;
  SerialNumber serial_;
  DriverChoices choices_;
  QueueCounters& counters_;
  Events events_;
  bool is_translated_;
  bool enabled_;

  virtio::ChainBatch batch_;
  std::vector<Request> requests_;
  std::vector<Request*> free_;
  std::vector<Request*> running_;  // given to the channel; in no order
  std::deque<Request*> waiting_;   // taken and not begun, oldest first
  OverlapFilter changing_;
  std::uint64_t begun_bytes_ = 0;  // since the channel was last handed what was submitted
  bool is_unpublished_ = false;
  bool is_handed_over_ = true;    // the channel has taken all that was submitted
  bool ignores_limits_ = false;   // being drained
  std::optional<OwnedFd> timer_;  // with rate limits: wakes the worker when the next request may start
};

}  // namespace causeway::blk

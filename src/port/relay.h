// One queue's relay, as the Port sees it: a Device works a ring of ours in the place of the guest's.
#pragma once

#include "base/event_fd.h"
#include "base/loop.h"
#include "base/result.h"
#include "base/worker.h"
#include "memory/memory_map.h"
#include "port/relay_queue.h"
#include "port/shadow_ring.h"
#include "vdpa/device.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace causeway::port {

/// Where a relayed queue leads to.
struct RelayTarget {
  vdpa::Device& device;  ///< must outlive the relay; has the guest's memory mapped
  vdpa::QueueIndex queue;
  virtio::FeatureSet features;  ///< negotiated with it: those of its ring may differ from the guest's
  memory::Iova at;              ///< where it shall see the shadow ring; ShadowRing::kStride bytes nobody else uses
};

/// Behind an IOMMU: what must be known before the queue goes on.
using OnMiss = std::function<void(const std::vector<memory::Miss>&)>;

/// What a relay tells its Port, from the loop.
struct RelayEvents {
  std::function<void(Error)> on_fault;  ///< either side has broken its ring: the relay stands still
  OnMiss on_miss;
};

/// Invariants: (1) while it exists the Device has the shadow ring mapped, and works it unless it has gone; (2) the
/// guest's ring and its notifications are the worker's.
/// Thread: control.
class Relay {
 public:
  /// Starts the Device's queue on a shadow ring, and relays on `worker`, which must outlive it. `guest`: the guest's
  /// queue as a Device would get it. The errors are those of Device::map and set_queue.
  static Result<std::unique_ptr<Relay>> start(Loop& loop, Worker& worker, const std::string& name, RelayTarget target,
                                              const vdpa::QueueSetup& guest, RelayMaps maps, RelayEvents events);
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;
  /// One that was neither stopped nor abandoned is abandoned.
  ~Relay();

  /// Stops both sides: where the next user of the guest's ring must resume. Errors are those of Device::stop_queue; the
  /// position is known all the same, since the shadow ring is ours: then ask `abandon` for it.
  Result<vdpa::QueueState> stop(vdpa::StopMode mode);
  /// The Device has gone: what it has not used runs again.
  vdpa::QueueState abandon();

  Result<void> replace_maps(RelayMaps maps);
  /// What runs on the worker: to be used there, between polls.
  RelayQueue& queue() { return *queue_; }
  void set_call(std::optional<CallFd> call);
  /// The Device's doorbell is another one, or there is none any more.
  void renew_doorbell();
  std::uint64_t relayed() const { return queue_->relayed(); }

 private:
  Relay(Worker& worker, const RelayTarget& target, ShadowRing shadow, KickFd kick, CallFd call,
        const vdpa::QueueSetup& guest);
  DeviceKick device_kick() const;
  Result<void> run();
  void leave_worker();

  Worker& worker_;
  RelayTarget target_;
  ShadowRing shadow_;
  KickFd kick_;  // the Device's
  CallFd call_;  // the Device's
  std::optional<KickFd> guest_kick_;
  /// Where the guest's ring is in order and the Device is not, a position cannot say what is done behind something that
  /// is not. A network device finishes the frames of a queue in their order all the same.
  bool must_drain_;
  std::unique_ptr<RelayQueue> queue_;
  bool is_on_worker_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for news from the worker that come too late
};

}  // namespace causeway::port

// The Device interface: whatever processes virtqueues. A software NIC, an accelerator behind VFIO, a kernel vDPA device
// and another process all look like this, and none of them knows how it is reached.
#pragma once

#include "base/event_fd.h"
#include "base/result.h"
#include "memory/memory_map.h"
#include "virtio/feature.h"
#include "virtio/ring.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace causeway::vdpa {

using virtio::FeatureSet;
using virtio::QueueIndex;
using virtio::QueueState;

/// The device status field. Spec: virtio 1.3 section 2.1.
enum class Status : std::uint8_t {
  reset = 0,
  acknowledge = 1,
  driver = 2,
  driver_ok = 4,
  features_ok = 8,
  needs_reset = 64,
  failed = 128,
};
constexpr Status operator|(Status a, Status b) {
  return static_cast<Status>(static_cast<std::uint8_t>(a) | static_cast<std::uint8_t>(b));
}
constexpr bool has(Status status, Status bit) {
  return (static_cast<std::uint8_t>(status) & static_cast<std::uint8_t>(bit)) != 0;
}

/// What a Device is; constant over its life. Value type.
struct DeviceInfo {
  std::string name;  ///< unique on its port: "soft", "nic0"
  virtio::DeviceType type;
  FeatureSet features;  ///< offered
  /// Of those: true of the guest's device only if no other Device works its queues.
  FeatureSet features_alone{};    // NOLINT(readability-redundant-member-init): may be left out of an initializer
  std::uint16_t queues;           ///< virtqueues, the control queue not among them
  std::uint16_t queues_per_unit;  ///< what "number of queues" counts for this type: 2 for net (a pair), else 1
  std::uint32_t largest_ring;     ///< entries
  std::uint32_t config_size;      ///< bytes of configuration space
  memory::Iova iova_first{0};     ///< lowest usable IOVA
  memory::Iova iova_last{~0ULL};  ///< highest usable IOVA
  struct Capabilities {
    bool logs_dirty = false;        ///< keeps RingConfig::log
    bool reports_state = true;      ///< stop_queue returns the ring's position
    bool record_in_flight = false;  ///< keeps RingConfig::record
  } can;
};

/// Everything a queue needs to run. Data; a running queue exists only inside a Device.
struct QueueSetup {
  virtio::RingConfig ring;
  std::optional<KickFd> kick;  ///< absent: the Device polls
  std::optional<CallFd> call;  ///< absent: the driver polls
  bool enabled = false;        ///< as which it starts; enable_queue changes it
  /// Addresses of the ring and in it are those before an IOMMU, which the Device has been told of by set_translations.
  /// Only for a queue that translates.
  bool is_translated = false;
};

/// A doorbell that can be mapped into the guest: a store to it kicks the queue. Both numbers are whole pages, in bytes.
struct NotifyArea {
  const OwnedFd& fd;  ///< to be mapped, shared
  std::uint64_t offset;
  std::uint64_t size;
};

/// What a stop does with chains that the Device has taken and not used yet.
enum class StopMode : std::uint8_t {
  drain,  ///< finishes them; for a Device whose requests wait for a rate limit, without that wait
  leave,  ///< finishes those it is working on; the rest are in QueueState::in_flight, for whoever works the queue next
};

/// Answer to a command of the control virtqueue.
struct ControlReply {
  std::uint8_t ack;  ///< 0 is OK
  /// What the command decided: a later command of the same topic replaces it in what is replayed to another Device.
  std::uint64_t topic = 0;
  /// The command brings its topic back to the state after reset, so nothing of the topic need be replayed.
  bool is_default = false;
  /// The command only asks: no other Device need hear of it, and there is nothing to remember.
  bool is_query = false;
  /// What follows the ack for the driver; no more of it than the driver has room for.
  std::vector<std::byte> data = {};  // NOLINT(readability-redundant-member-init): likewise
};

/// Counters of a queue, by name, for people and metrics.
struct Counter {
  std::string_view name;
  std::uint64_t value;
};

/// What a Device tells its Port. Called on the control thread.
class DeviceObserver {
 public:
  virtual ~DeviceObserver() = default;
  /// The configuration space has changed.
  virtual void config_changed() = 0;
  /// The queue has stopped by itself because its ring is broken.
  virtual void queue_failed(QueueIndex queue, Error reason) = 0;
  /// A queue that translates waits for these addresses: it goes on once they are among its translations.
  virtual void translations_missed(QueueIndex /*queue*/, const std::vector<memory::Miss>& /*misses*/) {}
  /// The Device works no more, and touches no memory any more. It has forgotten everything, memory maps included, and
  /// is not spoken to until it is back.
  virtual void device_gone(Error reason) = 0;
  /// A Device that was gone can be used again. Called from the loop, not from within a call.
  virtual void device_back() {}
  /// notify_area of a running queue has another answer than before. Called from the loop, not from within a call.
  virtual void notify_area_changed(QueueIndex /*queue*/) {}
  /// The same for vfio_group.
  virtual void vfio_group_changed(QueueIndex /*queue*/) {}
};

/// Processes virtqueues. All members are called on the control thread; none waits for the driver.
///
/// Life of a queue: set_queue makes it run, enabled or not; enable_queue changes that; stop_queue ends it.
/// A queue that is stopped while enabled is being moved: it will run again, here or on another Device of the same port,
/// and what is on its way to the driver waits for that (for a bounded time). Disable it after the stop when it is to
/// end: before the stop it would drop what its driver has just sent.
class Device {
 public:
  virtual ~Device() = default;

  virtual const DeviceInfo& info() const = 0;
  virtual void set_observer(DeviceObserver* observer) = 0;

  /// Takes the negotiated features, a subset of those offered; before the first set_queue. Errc::not_supported
  /// otherwise.
  virtual Result<void> set_features(FeatureSet features) = 0;
  virtual Status status() const = 0;
  /// Writing Status::reset stops all queues and forgets everything but the memory maps; translations too.
  virtual Result<void> set_status(Status status) = 0;

  /// Reads or writes configuration space; the range must lie inside config_size.
  virtual Result<void> read_config(std::uint32_t offset, std::span<std::byte> to) const = 0;
  virtual Result<void> write_config(std::uint32_t offset, std::span<const std::byte> from) = 0;
  /// Rises with every change of the configuration space by the device.
  virtual std::uint32_t config_generation() const = 0;

  /// Makes regions usable for DMA; they overlap no region mapped already. Queues may be running.
  virtual Result<void> map(std::span<const memory::Region> regions) = 0;
  /// Ends the use of regions. After return the Device touches them no more; a queue whose ring lay there has failed.
  virtual Result<void> unmap(std::span<const memory::Region> regions) = 0;

  /// Whether a queue can work its ring behind an IOMMU by itself.
  virtual bool translates(QueueIndex /*queue*/) const { return false; }
  /// What is known of the IOMMU, for queues that are started as translated: `map` is a translated one, of memory that
  /// is mapped (memory/iotlb.h). `gone`: what of an earlier one may lead elsewhere now, nothing of the ring of a queue
  /// that runs; nullptr: nothing. After return the Device touches nothing through that any more.
  virtual Result<void> set_translations(const std::shared_ptr<const memory::MemoryMap>& /*map*/,
                                        const memory::IovaRange* /*gone*/) {
    return fail(Errc::not_supported, info().name + " does not translate");
  }
  /// Buffers of a queue that were found among its translations; never goes back.
  virtual std::uint64_t translated(QueueIndex /*queue*/) const { return 0; }

  /// Starts a queue, and looks at its ring once without a kick. Errc::peer_violation: bad addresses or position.
  virtual Result<void> set_queue(QueueIndex queue, QueueSetup setup) = 0;
  /// A disabled queue consumes and drops what the driver sends, and gives it nothing (vhost-user "Ring states"). A
  /// queue that does not run may be disabled.
  virtual Result<void> enable_queue(QueueIndex queue, bool enabled) = 0;
  /// Replaces the call descriptor of a running queue.
  virtual Result<void> set_call(QueueIndex queue, std::optional<CallFd> call) = 0;
  /// Stops a running queue; after return the Device touches neither its ring nor its buffers. Waits for what the Device
  /// is working on (a disk: for its storage), never for the driver.
  virtual Result<QueueState> stop_queue(QueueIndex queue, StopMode mode) = 0;

  /// Where a queue stood when the Device went, where the Device kept a record of its own; from device_gone on. Nothing:
  /// whoever owns the ring finds out by itself.
  virtual std::optional<QueueState> last_state(QueueIndex /*queue*/) const { return std::nullopt; }

  /// Where a ring stands that this Device has worked for a user before us, which has died: as the Device itself has
  /// recorded it. Before set_queue, with the features set. Nothing: it has no such record.
  virtual std::optional<QueueState> former_state(QueueIndex /*queue*/, const virtio::RingConfig& /*ring*/) {
    return std::nullopt;
  }

  /// The queue's doorbell, where there is one.
  virtual std::optional<NotifyArea> notify_area(QueueIndex /*queue*/) const { return std::nullopt; }
  /// The VFIO group of the function that interrupts for a running queue, lent until the queue stops or the answer
  /// changes; nullptr: there is none, or none to give away. Who has it can do everything with the functions of the
  /// group. Spec: Linux Documentation/driver-api/vfio.rst.
  virtual const OwnedFd* vfio_group(QueueIndex /*queue*/) const { return nullptr; }
  /// Which queue is the control virtqueue once `features` are negotiated; the Port reads it and calls `control`.
  virtual std::optional<QueueIndex> control_queue(FeatureSet /*features*/) const { return std::nullopt; }
  /// Carries out one command of the control virtqueue: class, command and data as the driver sent them.
  virtual ControlReply control(std::span<const std::byte> command) = 0;
  /// Of a queue, whether it runs or not; they never go back, whatever becomes of the queue or the Device.
  virtual std::vector<Counter> counters(QueueIndex queue) const = 0;
  /// Fetches what `counters` says from where the Device does its work, where that takes time, and keeps `token` until
  /// it has; how long that may be is for whoever waits for the token's end to say.
  virtual void refresh_counters(const std::shared_ptr<void>& /*token*/) {}
  /// Why `counters` says nothing of packets or requests; empty when it does.
  virtual std::string why_uncounted() const { return {}; }
  /// Sends an announcement (RARP) for `mac` where the device is connected, after a migration. Net only.
  virtual Result<void> announce(std::span<const std::byte, 6> /*mac*/) {
    return fail(Errc::not_supported, info().name + " is no network device");
  }
  /// The front-end's view of the largest frame payload, in bytes. Net only.
  virtual Result<void> set_mtu(std::uint16_t /*mtu*/) {
    return fail(Errc::not_supported, info().name + " is no network device");
  }
};

}  // namespace causeway::vdpa

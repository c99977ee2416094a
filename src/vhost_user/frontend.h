// A Device that is another process, reached over vhost-user: any back-end, ours or another's, behind a Port or behind a
// driver of our own. Spec: QEMU docs/interop/vhost-user.rst.
#pragma once

#include "base/loop.h"
#include "memory/memory_map.h"
#include "vdpa/device.h"
#include "vhost_user/connector.h"
#include "vhost_user/remote_backend.h"
#include "vhost_user/role.h"
#include "virtio/inflight.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace causeway::vhost_user {

struct FrontendConfig {
  std::string name;  ///< of the Device, unique on its port
  std::filesystem::path path;
  Role role = Role::connect;
  virtio::DeviceType type = virtio::DeviceType::net;  ///< the protocol does not tell
  std::uint16_t queues = 2;                           ///< data queues wanted; a back-end that has fewer gives fewer
  std::uint32_t largest_ring = 1024;                  ///< entries; the protocol does not tell
  bool reconnect = false;                ///< a back-end that leaves is waited for, and its successor goes on
  bool inband_notifications = false;     ///< kicks and calls as messages, where the back-end can; for tests
  bool vfio_groups = false;              ///< takes VFIO groups (docs/wire/vfio-group.md), where the back-end has some
  std::chrono::milliseconds wait{5000};  ///< for the first back-end, in `make`
  std::chrono::milliseconds patience{5000};  ///< for each reply
  /// Net: configuration space for a back-end that keeps none (protocol feature CONFIG), as DPDK's.
  std::optional<std::array<std::uint8_t, 6>> mac = std::nullopt;
  std::optional<std::uint16_t> mtu = std::nullopt;  ///< bytes
};

/// Requests are synchronous: each waits for the back-end, `patience` at most. A back-end that breaks the protocol, or
/// does not answer, loses the connection. What a driver tells a network device through the control queue the protocol
/// cannot carry, except the number of queue pairs; a front-end answers it itself, and the back-end may deliver
/// more than the receive filter lets through.
///
/// Invariants: (1) info() never changes: a back-end that comes back must offer what was negotiated, and all queues that
/// run; (2) what is remembered of features, status, memory and queues is what the back-end has been told, or will be
/// told before any queue runs; (3) no observer is called from within a request.
///
/// Without `reconnect`, a back-end that leaves has left for good: the observer is told, set_features and whatever
/// concerns a queue fail with Errc::gone, the rest succeeds and does nothing. With `reconnect`, requests succeed while
/// nobody is there: they take effect when the back-end comes, and stop_queue answers with the position that the ring
/// itself shows. Then the queues run again from there, with one kick and one call each.
///
/// A back-end that can (INFLIGHT_SHMFD) records what is in flight, in memory that stays here when it dies: its
/// successor runs exactly that again, and a queue that goes on elsewhere takes it along. Not those of network devices:
/// frames may be lost or repeated, and DPDK's back-end offers the record and keeps none. Thread: control.
class Frontend final : public vdpa::Device, private RemoteEvents {
 public:
  /// Waits for the back-end, then negotiates. Errc::gone: none came in time, or it left; Errc::not_supported: it lacks
  /// what is needed; Errc::peer_violation: it breaks the protocol; Errc::busy, Errc::invalid_value, Errc::system: the
  /// path. All name the Device and the path. `loop` must outlive it.
  static Result<std::unique_ptr<Frontend>> make(Loop& loop, FrontendConfig config);
  /// On a connection that is there already; path, role, wait and reconnect of the configuration are not used.
  static Result<std::unique_ptr<Frontend>> make_on(Loop& loop, FrontendConfig config, UnixSocket socket);
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;
  /// Closes the connection; by that the back-end knows that it may touch nothing any more.
  ~Frontend() override = default;

  bool is_connected() const { return remote_ != nullptr && remote_->is_open(); }
  /// Negotiated with the back-end; empty while nobody is there.
  ProtocolFeatures protocol_features() const;

  const vdpa::DeviceInfo& info() const override { return info_; }
  void set_observer(vdpa::DeviceObserver* observer) override { observer_ = observer; }
  Result<void> set_features(virtio::FeatureSet features) override;
  vdpa::Status status() const override { return status_; }
  Result<void> set_status(vdpa::Status status) override;
  Result<void> read_config(std::uint32_t offset, std::span<std::byte> to) const override;
  Result<void> write_config(std::uint32_t offset, std::span<const std::byte> from) override;
  std::uint32_t config_generation() const override { return generation_; }
  Result<void> map(std::span<const memory::Region> regions) override;
  Result<void> unmap(std::span<const memory::Region> regions) override;
  Result<void> set_queue(QueueIndex queue, vdpa::QueueSetup setup) override;
  Result<void> enable_queue(QueueIndex queue, bool enabled) override;
  Result<void> set_call(QueueIndex queue, std::optional<CallFd> call) override;
  Result<vdpa::QueueState> stop_queue(QueueIndex queue, vdpa::StopMode mode) override;
  std::optional<vdpa::QueueState> last_state(QueueIndex queue) const override;
  /// The back-end's own, where it has one and has told us.
  std::optional<vdpa::NotifyArea> notify_area(QueueIndex queue) const override;
  const OwnedFd* vfio_group(QueueIndex queue) const override;
  std::optional<QueueIndex> control_queue(virtio::FeatureSet features) const override;
  vdpa::ControlReply control(std::span<const std::byte> command) override;
  /// None: the protocol has no counters.
  std::vector<vdpa::Counter> counters(QueueIndex /*queue*/) const override { return {}; }
  std::string why_uncounted() const override { return "vhost-user has no counters"; }
  Result<void> announce(std::span<const std::byte, 6> mac) override;
  Result<void> set_mtu(std::uint16_t mtu) override;

 private:
  /// A queue that is set.
  struct Queue {
    vdpa::QueueSetup setup;
    bool enabled = false;
    bool runs = false;         // enable_queue has been called
    bool started = false;      // and this back-end, or the last one, has been told to start it: the ring may have moved
    bool is_recorded = false;  // the record says where it stands
    std::optional<ErrFd> err;  // not in-band: the back-end signals that the ring broke
    std::optional<Loop::Registration> watch_err;
    std::optional<Loop::Registration> watch_kick;  // in-band
    std::optional<DoorbellArea> doorbell;
    std::shared_ptr<const OwnedFd> group;
  };

  Frontend(Loop& loop, FrontendConfig config) : loop_(loop), config_(std::move(config)) {}

  // RemoteEvents
  Result<void> check(const BackendMessage& message) const override;
  void on_message(const BackendMessage& message) override;
  void on_end(const Error& why) override;

  // frontend.cpp
  Result<void> start(UnixSocket socket);
  Result<std::unique_ptr<RemoteBackend>> negotiate(UnixSocket socket);
  void describe();
  virtio::FeatureSet offered_by(const RemoteBackend& remote) const;
  Result<void> learn_config();
  std::vector<std::byte> own_config() const;
  bool keeps_own_config() const;
  Result<void> check_range(std::uint32_t offset, std::size_t size) const;
  Failure gone() const;
  /// Does `request` with the back-end, where one is there and stays. With `reconnect`, a connection lost on the way is
  /// no failure: what was asked for is remembered, and replayed.
  template <class Work>
  Result<void> with_remote(Work work) {
    if (!is_connected()) return {};
    auto done = work(*remote_);
    if (!done && !is_connected() && config_.reconnect) return {};
    return done;
  }

  // frontend_queue.cpp
  Result<Queue*> find(QueueIndex queue);
  Result<memory::FrontendVa> frontend_address(memory::Iova address) const;
  Result<RemoteRing> remote_ring(QueueIndex index, const Queue& queue, bool is_tracked) const;
  Result<void> set_up(RemoteBackend& remote, QueueIndex index, const Queue& queue);
  void watch_ring(QueueIndex index, Queue& queue);
  Result<void> apply_enabled(RemoteBackend& remote, QueueIndex index, Queue& queue);
  Result<void> start_ring(RemoteBackend& remote, QueueIndex index, Queue& queue);
  Result<vdpa::QueueState> end_ring(QueueIndex index, const Queue& queue, vdpa::StopMode mode);
  void stop_queues_outside(const memory::MemoryMap& map);
  bool use_pairs(unsigned pairs);
  void fail_soon(QueueIndex queue, Error reason);

  // frontend_reconnect.cpp
  bool may_connect_anew() const { return is_connected() && connector_ && config_.role == Role::connect; }
  void connect_anew();
  void seek();
  void on_found(UnixSocket socket);
  Result<void> check_successor(const RemoteBackend& remote) const;
  Result<void> replay(RemoteBackend& remote);
  Result<vdpa::QueueState> resume(QueueIndex index, Queue& queue);
  Result<void> replay_queues(RemoteBackend& remote);

  // frontend_doorbell.cpp: what a back-end offers of its Device
  void set_doorbell(QueueIndex index, Queue& queue, std::optional<DoorbellArea> area);
  void set_vfio_group(QueueIndex index, Queue& queue, std::shared_ptr<const OwnedFd> group);

  // frontend_inflight.cpp
  bool tracks(const RemoteBackend& remote) const;
  bool record_fits() const;
  Result<void> share_record(RemoteBackend& remote, QueueIndex index, Queue& queue);
  Result<void> hand_over_record(RemoteBackend& remote);
  Result<std::vector<QueueIndex>> pause_rings();
  void forget_record();
  std::optional<vdpa::QueueState> recorded_state(QueueIndex index, const Queue& queue) const;
  Result<vdpa::QueueState> state_at(QueueIndex index, const Queue& queue, std::uint32_t position) const;
  void keep_last_states();

  /// What this back-end has been told of the record.
  enum class RecordStage : std::uint8_t { nothing, shared, none_possible };

  Loop& loop_;
  FrontendConfig config_;
  vdpa::DeviceInfo info_{};
  vdpa::DeviceObserver* observer_ = nullptr;
  std::unique_ptr<Connector> connector_;        // after the first connection: with `reconnect` only
  std::optional<virtio::FeatureSet> features_;  // those that were negotiated
  vdpa::Status status_ = vdpa::Status::reset;
  bool is_driver_ok_told_ = false;  // to this back-end
  std::shared_ptr<const memory::MemoryMap> map_ = memory::MemoryMap::empty();
  std::map<QueueIndex, Queue> queues_;
  std::optional<virtio::InflightRegion> record_;  // of what is in flight in these queues; outlives the back-end
  RecordStage record_stage_ = RecordStage::nothing;
  std::map<QueueIndex, vdpa::QueueState> last_states_;  // of a back-end that has left for good
  std::uint16_t active_queues_ = 0;                     // those of the queue pairs that the driver uses
  std::optional<std::uint16_t> mtu_;                    // as told by the driver side
  std::vector<std::byte> config_space_;                 // for a back-end that keeps none, and while none is there
  std::uint32_t generation_ = 0;

  std::vector<std::pair<QueueIndex, Error>> failures_;  // to be told
  std::optional<Loop::Registration> fail_soon_;
  std::unique_ptr<RemoteBackend> remote_;
};

}  // namespace causeway::vhost_user

// One connected back-end: what was negotiated with it, and every message a front-end speaks as a function.
// Spec: QEMU docs/interop/vhost-user.rst, "Front-end message types".
#pragma once

#include "base/loop.h"
#include "base/unix_socket.h"
#include "memory/memory_map.h"
#include "vdpa/device.h"
#include "vhost_user/event_channel.h"
#include "vhost_user/requester.h"
#include "virtio/inflight.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace causeway::vhost_user {

struct RemoteOptions {
  std::string name;  ///< begins log lines
  std::chrono::milliseconds patience;
  ProtocolFeatures configured;  ///< of those that are used if configured
  bool in_flight = false;       ///< a record of what is in flight is wanted, where the back-end can keep one
};

/// A ring as the messages carry it. Borrowed descriptors are shared ones.
struct RemoteRing {
  QueueIndex queue;
  std::uint32_t entries;
  std::uint32_t position;  ///< as in SET_VRING_BASE
  memory::FrontendVa descriptors;
  memory::FrontendVa available;
  memory::FrontendVa used;
  std::optional<CallFd> call;  ///< absent: the driver polls
  std::optional<ErrFd> err;
};

/// What a RemoteBackend tells by itself, from the loop.
class RemoteEvents {
 public:
  virtual ~RemoteEvents() = default;
  /// Whether what a message offers or withdraws, for which everything is negotiated, can be accepted; changes nothing.
  /// Called from within requests too, and from within `negotiate`.
  virtual Result<void> check(const BackendMessage& message) const = 0;
  virtual void on_message(const BackendMessage& message) = 0;
  /// The connection has ended; the RemoteBackend may be destroyed.
  virtual void on_end(const Error& why) = 0;
};

/// Requests wait for the back-end, as long as `patience` says each. Errc::not_supported: the back-end refuses, or the
/// message needs a protocol feature that it has not; everything goes on. Any other error has closed the connection.
/// Where REPLY_ACK is not negotiated, what must be done on return is followed by a question, whose answer shows
/// that the back-end has come so far; what it refuses remains unknown. Thread: control.
class RemoteBackend {
 public:
  /// Negotiates protocol features and opens the back-end channel. Errc::not_supported: it does not speak protocol
  /// features. `loop` and `events` must outlive it.
  static Result<std::unique_ptr<RemoteBackend>> negotiate(Loop& loop, UnixSocket socket, RemoteOptions options,
                                                          RemoteEvents& events);
  RemoteBackend(const RemoteBackend&) = delete;
  RemoteBackend& operator=(const RemoteBackend&) = delete;

  bool is_open() const { return requester_.is_open(); }
  virtio::FeatureSet features() const { return features_; }  ///< offered, without bit 30
  ProtocolFeatures protocol_features() const { return protocol_; }
  bool has(ProtocolFeature feature) const { return protocol_.has(feature); }
  std::uint64_t queue_units() const { return queue_units_; }  ///< GET_QUEUE_NUM: pairs of a network device
  std::size_t memory_slots() const { return memory_slots_; }

  Result<void> set_features(virtio::FeatureSet features);
  /// After FEATURES_OK, asks whether it was taken: Errc::not_supported when not.
  Result<void> set_status(vdpa::Status status);
  Result<void> reset();

  /// Reads at most kMaxConfigBytes.
  Result<void> read_config(std::uint32_t offset, std::span<std::byte> to);
  Result<void> write_config(std::uint32_t offset, std::span<const std::byte> from);
  Result<void> set_mtu(std::uint16_t mtu);
  Result<void> announce(std::span<const std::byte, 6> mac);

  /// `all` is what the back-end has after the change.
  Result<void> add_memory(std::span<const memory::Region> added, std::span<const memory::Region> all);
  Result<void> remove_memory(std::span<const memory::Region> removed, std::span<const memory::Region> all);

  /// Tells all of a ring but its kick descriptor.
  Result<void> set_up_ring(const RemoteRing& ring);
  /// Gives the kick descriptor, which starts the ring; absent: the back-end polls.
  Result<void> start_ring(QueueIndex queue, std::optional<KickFd> kick);
  /// Stops the ring; its position as in SET_VRING_BASE. What the back-end has said of its doorbell and VFIO group is
  /// void from then on. A back-end that cannot leave requests in flight finishes them.
  Result<std::uint32_t> stop_ring(QueueIndex queue, vdpa::StopMode mode);
  Result<void> enable_ring(QueueIndex queue, bool enabled);
  Result<void> set_call(QueueIndex queue, std::optional<CallFd> call);
  /// In-band notification only; not acknowledged.
  Result<void> kick(QueueIndex queue);

  /// Memory of the back-end's for a record of what is in flight. Errc::not_supported also when it gives none, or none
  /// that can be used.
  Result<virtio::InflightRegion> make_record(virtio::Layout layout, std::uint16_t queues, virtio::QueueSize entries);
  /// Has the back-end keep this record, and go on with what it says of a ring when that starts. No ring runs.
  Result<void> use_record(const virtio::InflightRegion& record);

 private:
  RemoteBackend(Loop& loop, UnixSocket socket, RemoteOptions options, RemoteEvents& events);

  Result<std::uint64_t> ask_u64(const FrontendMessage& message);
  Result<void> tell(const FrontendMessage& message);
  Result<void> need(Request request) const;
  Result<void> check(const BackendMessage& message) const;
  Result<void> come_so_far();
  Result<void> agree();
  Result<void> open_event_channel();
  Result<void> set_table(std::span<const memory::Region> all);
  void on_close(const Error& why);

  Loop& loop_;
  RemoteOptions options_;
  RemoteEvents& events_;
  virtio::FeatureSet features_;
  ProtocolFeatures protocol_;
  std::uint64_t queue_units_ = 1;
  std::size_t memory_slots_ = 0;
  std::unique_ptr<EventChannel> channel_;
  Requester requester_;
  std::optional<Loop::Registration> watch_;  // of the requester's socket, while it is open
  std::optional<Loop::Registration> end_soon_;
};

}  // namespace causeway::vhost_user

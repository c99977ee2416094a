// The channel on which we send messages to the front-end (SET_BACKEND_REQ_FD).
// Spec: QEMU docs/interop/vhost-user.rst, "Back-end communication" and "Back-end message types".
#pragma once

#include "base/loop.h"
#include "base/parcel.h"
#include "base/unix_socket.h"
#include "vhost_user/codec.h"
#include "vhost_user/port_log.h"

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <utility>

namespace causeway::vhost_user {

/// Sends messages in order and never waits for their replies: with REPLY_ACK one is on its way at a time, and equal
/// ones that wait behind it become one. So at most one message of each kind and queue is held; of doorbells two, one
/// withdrawn and the next, and so of VFIO groups. Misses are sent at once and not acknowledged. When the front-end
/// closes the channel or breaks its rules, the channel says so once and is silent from then on. Thread: control.
class BackendChannel {
 public:
  /// What has been offered for which queue.
  using Told = std::set<std::pair<BackendRequest, QueueIndex>>;
  /// Told when a doorbell's message has been answered, or sent where no answers come: whether it was accepted.
  using OnDoorbell = std::function<void(const BackendMessage& message, bool accepted)>;

  /// `acknowledged`: REPLY_ACK is negotiated, so each message asks for a reply.
  BackendChannel(Loop& loop, PortLog& log, UnixSocket socket, bool acknowledged, OnDoorbell on_doorbell);
  BackendChannel(const BackendChannel&) = delete;
  BackendChannel& operator=(const BackendChannel&) = delete;

  /// Writes what the channel is, for another process; it must say nothing more here unless that fails. What is offered
  /// is this process's: what the front-end may have of it, `told`, is to be withdrawn by the other one, and none is
  /// offered.
  void hand_over(ParcelWriter& parcel, Told told) const;
  /// The channel of another process.
  static Result<std::unique_ptr<BackendChannel>> take_over(Loop& loop, PortLog& log, OnDoorbell on_doorbell,
                                                           ParcelReader& parcel);
  /// Between the two it neither reads nor sends; what is to be sent waits.
  void freeze() { watch_.reset(); }
  void thaw();

  void send(BackendMessage message);
  /// Forgets what waits to be sent about `queue`, which has stopped.
  void drop(QueueIndex queue);
  /// Forgets what waits to be offered for `queue` by such a message; false when nothing does.
  bool cancel_offer(BackendRequest request, QueueIndex queue);
  /// True when a message about the doorbell of `queue` waits to be sent.
  bool has_waiting_doorbell(QueueIndex queue) const;
  bool is_open() const { return is_open_; }

 private:
  void send_next();
  void send_misses();
  void on_readable();
  void take_reply();
  void close(std::string_view why);
  void forget();

  Loop& loop_;
  PortLog& log_;
  UnixSocket socket_;
  bool acknowledged_;
  OnDoorbell on_doorbell_;
  bool is_open_ = true;
  std::deque<BackendMessage> waiting_;
  std::optional<BackendMessage> unanswered_;
  std::array<std::byte, kBackendReplySize> reply_{};
  std::size_t filled_ = 0;
  std::optional<Loop::Registration> watch_;  // while the channel is open and not frozen
};

}  // namespace causeway::vhost_user

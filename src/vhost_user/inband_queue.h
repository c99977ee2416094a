// Notifications of one queue carried in messages instead of eventfds (INBAND_NOTIFICATIONS). The port sees eventfds all
// the same: ours, which we signal and watch. Spec: QEMU docs/interop/vhost-user.rst, "In-band notifications".
#pragma once

#include "base/event_fd.h"
#include "base/loop.h"
#include "vhost_user/backend_channel.h"

#include <optional>

namespace causeway::vhost_user {

/// Exists while the queue runs. `kick` is what VRING_KICK signals; a signal on `call` or `err` becomes a message.
/// Thread: control.
class InbandQueue {
 public:
  /// `kick`: the front-end's own descriptor, where it has given one.
  static Result<InbandQueue> make(std::optional<KickFd> kick) {
    if (!kick) {
      CW_TRY(kick, KickFd::make());
    }
    CW_TRY(auto call, CallFd::make());
    CW_TRY(auto err, ErrFd::make());
    return InbandQueue(std::move(*kick), std::move(call), std::move(err));
  }
  InbandQueue(KickFd a_kick, CallFd a_call, ErrFd an_err)
      : kick(std::move(a_kick)), call(std::move(a_call)), err(std::move(an_err)) {}

  /// Sends the messages on `channel`, which must outlive this.
  void watch(Loop& loop, BackendChannel& channel, QueueIndex queue) {
    watch_call_.emplace(loop.watch(call.fd(), [&channel, queue, event = call] {
      if (event.drain()) channel.send({.request = BackendRequest::vring_call, .queue = queue});
    }));
    watch_err_.emplace(loop.watch(err.fd(), [&channel, queue, event = err] {
      if (event.drain()) channel.send({.request = BackendRequest::vring_err, .queue = queue});
    }));
  }

  void unwatch() {
    watch_call_.reset();
    watch_err_.reset();
  }

  KickFd kick;
  CallFd call;
  ErrFd err;

 private:
  std::optional<Loop::Registration> watch_call_;
  std::optional<Loop::Registration> watch_err_;
};

}  // namespace causeway::vhost_user

// Sends a front-end's messages over one connection and waits for their replies, for a limited time.
// Spec: QEMU docs/interop/vhost-user.rst, "Communication".
#pragma once

#include "base/unix_socket.h"
#include "vhost_user/codec.h"

#include <chrono>
#include <functional>
#include <optional>

namespace causeway::vhost_user {

/// Invariants: (1) at most one request is unanswered; (2) after any error but a refusal the connection is closed, since
/// where the next reply begins is unknown: every later request fails with Errc::gone; (3) no call lasts longer than the
/// time limit for sending and the one for the reply; (4) descriptors that a back-end sends are closed at once, but for
/// the one of an answer that is due to bring it.
/// Thread: control.
class Requester {
 public:
  /// Called once, when an error is about to close the connection: whoever watches `fd` must cease to.
  using OnClose = std::function<void(const Error&)>;

  Requester(UnixSocket socket, std::chrono::milliseconds patience, OnClose on_close)
      : socket_(std::move(socket)), patience_(patience), on_close_(std::move(on_close)) {}
  Requester(const Requester&) = delete;
  Requester& operator=(const Requester&) = delete;

  /// Sends a message that is always answered, and returns the answer. Errc::peer_violation: the answer is none to it;
  /// Errc::gone: no answer in time, or no connection any more; all name the message.
  Result<Answer> ask(const FrontendMessage& message);
  /// Sends a message that changes something. With `acknowledged` (REPLY_ACK) it returns once the back-end has done it,
  /// and Errc::not_supported says that the back-end refuses; else it returns when it is sent.
  Result<void> tell(const FrontendMessage& message, bool acknowledged);
  /// Closes the connection because an answer makes no sense; the error to return, which names the message.
  Failure refuse(Request request, std::string why) {
    return broken({.code = Errc::peer_violation, .what = std::move(why)}, request);
  }

  /// Has `attend` called whenever `fd` is readable while a reply is waited for, until it returns false. Both must stay
  /// as long as this does; `attend` may call no member of this.
  void look_after(const OwnedFd& fd, std::function<bool()> attend) { aside_ = Aside{&fd, std::move(attend)}; }
  bool is_open() const { return socket_.has_value(); }
  /// To be watched while it is open: readable, without a request of ours, means that the back-end has left or errs.
  const OwnedFd& fd() const { return socket_->fd(); }
  /// Looks whether anything is to be read though nothing was asked; that is an error and closes the connection.
  void look();

 private:
  using Clock = std::chrono::steady_clock;
  struct Aside {
    const OwnedFd* fd;
    std::function<bool()> attend;
  };

  Result<void> send(const FrontendMessage& message, bool need_reply);
  Result<Answer> receive(Request request);
  Result<void> read_all(std::span<std::byte> to, Clock::time_point deadline, ReplyFiles& files);
  Result<void> wait_readable(Clock::time_point deadline);
  Failure broken(Error error, Request request);
  void close(const Error& why);

  std::optional<UnixSocket> socket_;
  std::chrono::milliseconds patience_;
  OnClose on_close_;
  std::optional<Aside> aside_;  // a back-end may wait for us while we wait for it
};

}  // namespace causeway::vhost_user

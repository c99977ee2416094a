// The front-end's end of the channel of SET_BACKEND_REQ_FD: takes the back-end's messages and answers them.
// Spec: QEMU docs/interop/vhost-user.rst, "Back-end communication" and "Back-end message types".
#pragma once

#include "base/loop.h"
#include "base/unix_socket.h"
#include "vhost_user/codec.h"

#include <array>
#include <functional>
#include <optional>
#include <string>

namespace causeway::vhost_user {

/// Each message is answered when it asks for that, and then handed on from the loop, never from within a call into this
/// class. A message we do not know, or that is refused, is answered with a failure; one that breaks a rule closes the
/// channel, which harms nothing but the back-end's own news. Thread: control.
class EventChannel {
 public:
  using OnMessage = std::function<void(const BackendMessage&)>;
  /// Says, before the answer, whether a message is refused; may be called while a request of ours is unanswered.
  using Check = std::function<Result<void>(const BackendMessage&)>;

  /// `subject` begins every log line.
  EventChannel(Loop& loop, UnixSocket socket, std::string subject, Check check, OnMessage on_message);
  EventChannel(const EventChannel&) = delete;
  EventChannel& operator=(const EventChannel&) = delete;

  bool is_open() const { return watch_.has_value(); }
  const OwnedFd& fd() const { return socket_.fd(); }
  /// Reads and answers what is there; never waits. False once the channel is closed.
  bool attend();
  /// Forgets what has come of the doorbell and the VFIO group of `queue`, which has stopped, and is not handed on yet.
  void drop_offers(QueueIndex queue);

 private:
  bool read_some();
  bool on_message();
  void keep(BackendMessage message);
  void drop(BackendRequest request, QueueIndex queue);
  void deliver();
  bool close(std::string_view why);

  Loop& loop_;
  UnixSocket socket_;
  std::string subject_;
  Check check_;
  OnMessage on_message_;
  std::array<std::byte, kHeaderSize> head_{};
  std::optional<Header> header_;
  Bytes body_;
  std::size_t filled_ = 0;
  ReplyFiles files_;
  std::vector<BackendMessage> arrived_;  // each once; of what is offered the last word only
  std::optional<Loop::Registration> watch_;
  std::optional<Loop::Registration> deliver_soon_;
};

}  // namespace causeway::vhost_user

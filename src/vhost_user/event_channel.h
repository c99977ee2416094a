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
/// class. A message we do not know is answered with a failure; one that breaks a rule closes the channel, which
/// harms nothing but the back-end's own news. Thread: control.
class EventChannel {
 public:
  using OnMessage = std::function<void(const BackendMessage&)>;

  /// `subject` begins every log line.
  EventChannel(Loop& loop, UnixSocket socket, std::string subject, OnMessage on_message);
  EventChannel(const EventChannel&) = delete;
  EventChannel& operator=(const EventChannel&) = delete;

  bool is_open() const { return watch_.has_value(); }
  const OwnedFd& fd() const { return socket_.fd(); }
  /// Reads and answers what is there; never waits. False once the channel is closed.
  bool attend();

 private:
  bool read_some();
  bool on_message();
  void deliver();
  bool close(std::string_view why);

  Loop& loop_;
  UnixSocket socket_;
  std::string subject_;
  OnMessage on_message_;
  std::array<std::byte, kHeaderSize> head_{};
  std::optional<Header> header_;
  Bytes body_;
  std::size_t filled_ = 0;
  std::size_t descriptors_ = 0;
  std::vector<BackendMessage> arrived_;  // each once
  std::optional<Loop::Registration> watch_;
  std::optional<Loop::Registration> deliver_soon_;
};

}  // namespace causeway::vhost_user

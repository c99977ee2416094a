// One connected front-end: reads its messages from the socket, feeds them to a Session, sends the replies.
// Spec: QEMU docs/interop/vhost-user.rst, "Header".
#pragma once

#include "base/loop.h"
#include "base/unix_socket.h"
#include "vhost_user/session.h"

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace causeway::vhost_user {

/// Invariants: (1) descriptors belong to the message in whose header's bytes they came, and are closed with it; (2)
/// what is read never exceeds the message at hand; (3) after its end it reads nothing more. Thread: control.
class Connection {
 public:
  /// Called once, when the connection has ended by itself; may destroy the connection.
  using OnEnd = std::move_only_function<void()>;

  /// Errc::busy when the port has a driver side already.
  static Result<std::unique_ptr<Connection>> open(Loop& loop, port::Port& port, PortLog& log, SessionOptions options,
                                                  UnixSocket socket, OnEnd on_end);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Goes on with the connection of another process: session, port, and what of a message had been read. It is frozen.
  static Result<std::unique_ptr<Connection>> take_over(Loop& loop, port::Port& port, PortLog& log,
                                                       SessionOptions options, ParcelReader& parcel, OnEnd on_end);
  void hand_over(ParcelWriter& parcel) const;
  /// Between the two nothing is read, so that what the front-end says waits for whoever goes on.
  void freeze();
  void thaw();

  ProtocolFeatures protocol_features() const { return session_->protocol_features(); }

 private:
  enum class Progress : std::uint8_t { more, nothing_there, ended };

  Connection(Loop& loop, PortLog& log, UnixSocket socket, OnEnd on_end)
      : loop_(loop), log_(log), socket_(std::move(socket)), on_end_(std::move(on_end)) {}

  void on_readable();
  Progress read_some();
  Progress on_header();
  Progress on_message();
  Progress on_hang_up();
  void take_descriptors(Received& received);
  Result<void> read_input(ParcelReader& parcel);
  std::function<void()> end_later();
  void end();

  Loop& loop_;
  PortLog& log_;
  UnixSocket socket_;
  OnEnd on_end_;
  std::unique_ptr<Session> session_;

  std::array<std::byte, kHeaderSize> head_{};
  std::optional<Header> header_;  // decoded: the payload is being read
  Bytes body_;
  std::size_t filled_ = 0;  // bytes of head_ or body_ read
  std::vector<OwnedFd> fds_;
  std::optional<Error> fds_error_;

  std::optional<Loop::Registration> watch_;
  std::optional<Loop::Registration> end_soon_;
};

}  // namespace causeway::vhost_user

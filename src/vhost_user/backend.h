// The vhost-user server of one port: one front-end at a time, for ever.
// Spec: QEMU docs/interop/vhost-user.rst.
#pragma once

#include "base/loop.h"
#include "base/unix_socket.h"
#include "port/port.h"
#include "vhost_user/connection.h"
#include "vhost_user/port_log.h"
#include "vhost_user/role.h"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

namespace causeway::vhost_user {

struct BackendConfig {
  std::filesystem::path path;
  Role role = Role::listen;
  SessionOptions options;
};

/// What is to be seen of a server. Value type.
struct BackendReport {
  std::filesystem::path path;
  Role role;
  bool connected;
  ProtocolFeatures protocol_features;  ///< negotiated; empty while nobody is connected
};

/// A front-end that leaves, in whatever way, leaves nothing behind: queues stopped, memory unmapped, state reset. The
/// next may come at once. A second one at the same time is turned away. When the process runs out of descriptors the
/// server says so and tries again later. Thread: control.
class Backend {
 public:
  /// Starts serving. Errc::busy: another process listens at the path; Errc::invalid_value: the path is unusable;
  /// Errc::system: it cannot be bound. In the role `connect` a front-end that is not there yet is no error.
  /// `loop` and `port` must outlive the server.
  static Result<std::unique_ptr<Backend>> start(Loop& loop, port::Port& port, BackendConfig config);
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  /// Goes on with the server of another process and its front-end, if one is connected: with it comes the port, whose
  /// queues are paused. It is frozen. Errc::not_supported: that server had another role.
  static Result<std::unique_ptr<Backend>> take_over(Loop& loop, port::Port& port, BackendConfig config,
                                                    ParcelReader& parcel);
  /// Writes server, front-end and port.
  void hand_over(ParcelWriter& parcel, port::RecordFormat format) const;
  /// Between the two it hears and accepts nobody.
  void freeze();
  void thaw();
  /// Leaves the path of the socket to the process that has taken over.
  void leave_path();

  BackendReport report() const;

  /// Time between two attempts to connect: the first, doubled up to the last.
  static constexpr std::chrono::milliseconds kFirstBackOff{50};
  static constexpr std::chrono::milliseconds kLongestBackOff{2000};
  /// Time between two attempts to accept once descriptors have run out.
  static constexpr std::chrono::milliseconds kAcceptBackOff{200};

 private:
  Backend(Loop& loop, port::Port& port, BackendConfig config)
      : loop_(loop), port_(port), config_(std::move(config)), log_(port.name()) {}

  void watch_listener();
  void accept_waiting();
  void try_to_connect();
  void connect_later();
  bool serve(UnixSocket socket);
  void on_connection_ended();

  Loop& loop_;
  port::Port& port_;
  BackendConfig config_;
  PortLog log_;
  std::optional<UnixListener> listener_;                // role listen
  std::chrono::milliseconds back_off_ = kFirstBackOff;  // role connect
  bool is_absence_told_ = false;                        // role connect: the log has said that nobody is there
  std::unique_ptr<Connection> connection_;
  std::optional<Loop::Registration> watch_;  // of the listener; destroyed before it
  std::optional<Loop::Registration> retry_;
};

}  // namespace causeway::vhost_user

// The vfio-user server of one PCI function: one client at a time, for ever.
// Spec: libvfio-user docs/vfio-user.rst.
#pragma once

#include "base/loop.h"
#include "base/unix_socket.h"
#include "vfio/bus.h"
#include "vfio_user/server_connection.h"

#include <filesystem>
#include <memory>
#include <optional>

namespace causeway::vfio_user {

struct ServerConfig {
  std::string name;  ///< begins log lines: "port net0"
  std::filesystem::path path;
};

/// A client that leaves, in whatever way, leaves nothing behind: the function is reset, and its DMA maps and interrupts
/// are gone. The protocol would have the device keep its state; but the memory it works on goes with the client. A
/// second client at the same time is turned away. Thread: control.
class Server {
 public:
  /// Errc::busy: another process listens at the path; Errc::invalid_value, Errc::system: the path. `loop` and
  /// `function` must outlive the server.
  static Result<std::unique_ptr<Server>> start(Loop& loop, vfio::Bus& function, ServerConfig config);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  const std::filesystem::path& path() const { return config_.path; }
  bool is_connected() const { return connection_ != nullptr; }
  /// Closes the connection, if there is one: the function cannot go on.
  void disconnect() { connection_.reset(); }

 private:
  Server(Loop& loop, vfio::Bus& function, ServerConfig config, UnixListener listener);
  void watch_listener();
  void on_waiting();

  Loop& loop_;
  vfio::Bus& function_;
  ServerConfig config_;
  UnixListener listener_;
  std::unique_ptr<ServerConnection> connection_;
  std::optional<Loop::Registration> watch_;  // destroyed before the listener
  std::optional<Loop::Registration> retry_;
};

}  // namespace causeway::vfio_user

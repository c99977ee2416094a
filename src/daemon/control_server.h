// The control API over gRPC on a unix socket.
#pragma once

#include "base/loop.h"
#include "base/result.h"
#include "daemon/upgrade.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace causeway::daemon {

class Graph;

struct ControlOptions {
  std::string version;  ///< what it answers when asked
  /// Begins an upgrade to a program; calls `done` once it is decided. Called on the control thread.
  std::function<void(const std::string& program, Upgrade::Done done)> upgrade;
  /// The listening socket of the process before.
  std::optional<OwnedFd> inherited;
};

/// Serves the control API from gRPC's own threads; each call reaches the graph on the control thread only. The socket
/// can be opened by our own user alone (mode 0600). Thread: control.
class ControlServer {
 public:
  /// Binds to `path`. A socket that no process listens on any more is replaced; Errc::busy when one does. `loop` and
  /// `graph` must outlive the server.
  static Result<std::unique_ptr<ControlServer>> start(Loop& loop, Graph& graph, const std::filesystem::path& path,
                                                      ControlOptions options);
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;
  /// The loop must not have been left with calls under way: see `stop`.
  ~ControlServer();

  /// Removes the socket and accepts no more; lets calls under way end, for a short time, and then runs `done` on the
  /// loop, which must run until then.
  void stop(Loop::Callback done);

  /// Between the two it accepts nobody; calls under way go on.
  void freeze();
  void thaw();
  const OwnedFd& listener() const;
  /// Leaves the path of the socket to the process that has taken over.
  void leave_path();

 private:
  struct Impl;
  explicit ControlServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace causeway::daemon

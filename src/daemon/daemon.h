// A whole run of the daemon.
#pragma once

#include "base/result.h"
#include "base/unix_socket.h"
#include "daemon/config/config.h"
#include "daemon/graph.h"
#include "daemon/upgrade.h"

#include <optional>
#include <string>

namespace causeway::daemon {

/// How a process of the daemon begins.
struct Start {
  Former former = Former::restore;        ///< what to do with what is known of a process that has died
  std::optional<UnixSocket> predecessor;  ///< the process to take over from, when there is one
  Launch successor;                       ///< how to start the process that takes over from this one
  std::string version;                    ///< what the control API answers
};

/// Serves until SIGTERM or SIGINT; then stops the control API, all ports and all workers, and removes the sockets. Does
/// not return once another process has taken over: this one then ends. Call once in a process, on its main thread.
Result<void> serve(const config::Config& config, Start start);

}  // namespace causeway::daemon

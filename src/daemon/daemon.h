// A whole run of the daemon.
#pragma once

#include "base/result.h"
#include "daemon/config/config.h"
#include "daemon/graph.h"

#include <string>

namespace causeway::daemon {

/// Serves until SIGTERM or SIGINT; then stops the control API, all ports and all workers, and removes the sockets.
/// `former`: what to do with what is known of a process before. `version` is what the control API answers. Call once in
/// a process, on its main thread.
Result<void> serve(const config::Config& config, Former former, std::string version);

}  // namespace causeway::daemon

// Asking two daemons whether a guest can move from one to the other.
#pragma once

#include "base/result.h"

#include <string>
#include <vector>

namespace causeway::control::v1 {
class GuestNeeds;
}

namespace causeway::cli {

/// Where a guest would move to. Value type.
struct Destination {
  std::string host;  ///< a name for ssh, or, if there is a '/' in it, the path of a control socket
  std::string port;  ///< name of the port there
};

/// The first thing that keeps the guest of `port`, of the daemon at `socket`, from moving; empty when there is none.
/// The errors are that one of the two cannot be asked.
Result<std::string> migration_obstacle(const std::string& socket, const std::string& port, const Destination& to);
/// The same as JSON: {"can_migrate": ..., "obstacle": ...}.
Result<std::string> migration_verdict(const std::string& obstacle);

/// How `ssh` in PATH is run to ask a host: its words. Errc::invalid_value: a name that it would take for an option.
Result<std::vector<std::string>> ssh_words(const Destination& to);

/// Reads needs as JSON from standard input. Errc::invalid_value: there are none.
Result<void> read_needs(control::v1::GuestNeeds& needs);

}  // namespace causeway::cli

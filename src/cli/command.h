// Another program, run to its end.
#pragma once

#include "base/result.h"

#include <string>
#include <string_view>
#include <vector>

namespace causeway::cli {

/// How a program ended. Value type.
struct CommandOutcome {
  int status;          ///< its exit status, or 128 and the number of the signal that ended it
  std::string output;  ///< what it has written to standard output; of a lot, the beginning
  std::string errors;  ///< the same of standard error
};

/// Runs a program, found in PATH, with our environment and `input` as its standard input, and waits for it; what it
/// leaves running in the background is not waited for. `words`: its name and arguments, at least one. Errc::system when
/// it cannot be started.
Result<CommandOutcome> run_command(std::vector<std::string> words, std::string_view input);

}  // namespace causeway::cli

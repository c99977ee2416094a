// causewayd: reads its arguments and its configuration, and serves.
#include "base/child.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "daemon/config/config.h"
#include "daemon/daemon.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <exception>
#include <filesystem>
#include <string>

namespace {

using causeway::Result;

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

struct Options {
  std::string config = "/etc/causeway/causeway.toml";
  std::string log_level;
  bool check = false;
  bool discard_state = false;
  bool take_over = false;
};

/// The program as it was started, under whose path a newer one may lie by the time of an upgrade.
Result<std::filesystem::path> own_program() {
  std::error_code error;
  auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return causeway::fail(causeway::system_error("read /proc/self/exe", error.value()));
  return path;
}

Result<causeway::daemon::Start> how_to_start(const Options& options) {
  causeway::daemon::Start start;
  start.version = CAUSEWAY_VERSION;
  if (options.discard_state) start.former = causeway::daemon::Former::discard;
  CW_TRY(start.successor.program, own_program());
  start.successor.arguments = {"--take-over", "--config", options.config};
  if (!options.log_level.empty())
    start.successor.arguments.insert(start.successor.arguments.end(), {"--log-level", options.log_level});
  if (!options.take_over) return start;
  CW_TRY(start.predecessor, causeway::UnixSocket::adopt(causeway::OwnedFd::adopt(causeway::Child::kGivenFd)));
  return start;
}

Result<void> start(const Options& options) {
  CW_TRY(auto config, causeway::config::load_config(options.config));
  if (options.check) {
    fmt::print("{}: right; ports: {}, switches: {}, workers: {}\n", options.config, config.ports.size(),
               config.switches.size(), config.workers.size());
    return {};
  }
  causeway::log::start(options.log_level.empty() ? config.daemon.log_level : options.log_level);
  CW_TRY(auto start, how_to_start(options));
  CW_CHECK(causeway::daemon::serve(config, std::move(start)));
  causeway::log::info("stopped");
  return {};
}

int run(int argc, char** argv) {
  CLI::App app("Serves virtio devices to virtual machines", "causewayd");
  Options options;
  app.set_version_flag("--version", "causewayd " CAUSEWAY_VERSION);
  app.add_option("--config", options.config, "the configuration file")->capture_default_str();
  app.add_flag("--check-config", options.check, "only read the configuration and say whether it is right");
  app.add_flag("--discard-state", options.discard_state, "start with empty ports, whatever the state directory has");
  app.add_flag("--take-over", options.take_over,
               "used by an upgrade: takes over from the process that has started this one");
  app.add_option("--log-level", options.log_level, "in place of the configuration's log-level")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "err", "off"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongUsage;
  }
  const auto done = start(options);
  if (done) return 0;
  fmt::print(stderr, "causewayd: {}\n", done.error().text());
  return kFailed;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "causewayd: {}\n", error.what());
    return kFailed;
  }
}

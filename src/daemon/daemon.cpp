#include "daemon/daemon.h"

#include "base/event_fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/mapping.h"
#include "daemon/control_server.h"
#include "daemon/graph.h"

#include <sys/resource.h>

#include <csignal>
#include <memory>
#include <vector>

namespace causeway::daemon {
namespace {

/// Every port needs descriptors for each of its queues and memory regions.
Result<void> raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return fail(system_error("getrlimit(RLIMIT_NOFILE)"));
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return fail(system_error("setrlimit(RLIMIT_NOFILE)"));
  log::info("at most {} open descriptors", limit.rlim_cur);
  return {};
}

}  // namespace

Result<void> serve(const config::Config& config, Former former, std::string version) {
  std::signal(SIGPIPE, SIG_IGN);
  CW_CHECK(raise_descriptor_limit());
  CW_TRY(auto loss, EventFd::make());
  const auto on_loss = std::make_shared<const EventFd>(std::move(loss));
  CW_CHECK(survive_lost_mappings(on_loss));

  Loop loop;
  CW_TRY(const auto graph, Graph::build(loop, config, former));
  CW_TRY(const auto server, ControlServer::start(loop, *graph, config.daemon.control, std::move(version)));
  const auto check_memory = loop.watch(on_loss->fd(), [&] {
    on_loss->drain();
    graph->check_memory();
  });
  bool is_stopping = false;
  const auto stop = [&] {
    if (std::exchange(is_stopping, true)) return;
    log::info("stopping");
    server->stop([&] { loop.stop(); });
  };
  const auto on_term = loop.on_signal(SIGTERM, stop);
  const auto on_int = loop.on_signal(SIGINT, stop);
  log::info("serving {} ports, control API on '{}'", config.ports.size(), config.daemon.control);
  loop.run();
  return {};
}

}  // namespace causeway::daemon

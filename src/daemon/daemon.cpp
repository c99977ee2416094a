#include "daemon/daemon.h"

#include "base/event_fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/mapping.h"
#include "daemon/control_server.h"
#include "daemon/descriptor_store.h"
#include "daemon/graph_names.h"
#include "daemon/handover.h"

#include <fmt/format.h>

#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <utility>

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

/// The objects of a run, in the order in which they depend on each other.
class Run {
 public:
  Run(const config::Config& config, Start start) : config_(config), start_(std::move(start)) {}

  Result<void> begin() {
    if (auto continued = go_on_from_store(); !continued) {
      // Records of the ports are there still; front-ends see a disconnect.
      log::error("what the process before has left with the service manager is not used: {}", continued.error().text());
      control_.reset();
      graph_.reset();
    }
    if (control_) return {};
    CW_TRY(graph_, Graph::build(loop_, config_, start_.former));
    return start_control(std::nullopt);
  }

  Result<void> take_over() {
    CW_TRY(const auto predecessor, Predecessor::meet(std::move(*start_.predecessor), start_.version));
    auto ready = inherit(predecessor->shelf(), predecessor->ports());
    if (ready) ready = predecessor->ports().finish();
    CW_CHECK(predecessor->answer(ready));
    CW_CHECK(ready);
    const auto started = start_queues(*predecessor);
    // If nobody hears the answer, the old process has died meanwhile: all the more this one must go on.
    if (auto told = predecessor->answer(started); !told) log::warn("take-over: {}", told.error().text());
    CW_CHECK(started);
    return open();
  }

  /// Returns when it is to end; never, when another process has taken over.
  void run(const EventFd& memory_loss) {
    const auto check_memory = loop_.watch(memory_loss.fd(), [&] {
      memory_loss.drain();
      graph_->check_memory();
    });
    const auto on_term = loop_.on_signal(SIGTERM, [this] { stop(); });
    const auto on_int = loop_.on_signal(SIGINT, [this] { stop(); });
    ::sd_notify(0, "READY=1");
    log::info("serving {} ports, control API on '{}'", config_.ports.size(), config_.daemon.control);
    loop_.run();
    // As a process that is killed: what it would stop and undo at an orderly end is another one's now.
    if (has_handed_over_) std::_Exit(EXIT_SUCCESS);
  }

 private:
  /// A process before has stopped and left everything with the service manager.
  Result<void> go_on_from_store() {
    CW_TRY(auto parcel, withdraw());
    if (!parcel || start_.former == Former::discard) return {};
    ParcelReader estate(std::move(*parcel));
    CW_TRY(auto shelf, Shelf::read(estate));
    CW_CHECK(inherit(shelf, estate));
    ParcelReader positions({.bytes = estate.bytes(), .fds = {}});
    CW_CHECK(estate.finish());
    CW_CHECK(graph_->start_at(positions));
    return open();
  }

  /// Leaves everything with the service manager, where there is one, for the process that it starts next.
  Result<void> leave_in_store() {
    CW_CHECK(graph_->can_hand_over());
    control_->freeze();
    graph_->freeze();
    ParcelWriter estate;
    graph_->hand_over(estate, control_->listener(), port::RecordFormat::current);
    ParcelWriter positions;
    graph_->pause(positions);
    estate.bytes(positions.contents());
    CW_CHECK(deposit(estate));
    graph_->leave_paths();
    control_->leave_path();
    has_handed_over_ = true;
    return {};
  }

  Result<void> open() {
    CW_CHECK(graph_->open(start_.former));
    control_->thaw();
    return {};
  }

  Result<void> inherit(Shelf& shelf, ParcelReader& ports) {
    CW_TRY(graph_, Graph::inherit(loop_, config_, shelf));
    CW_CHECK(graph_->take_over(ports));
    auto listener = shelf.take(std::string(kControlListener));
    if (!listener) return fail(Errc::peer_violation, "the control API's socket is missing");
    return start_control(std::move(listener));
  }

  Result<void> start_queues(const Predecessor& predecessor) {
    CW_TRY(auto parcel, predecessor.positions());
    ParcelReader positions(std::move(parcel));
    return graph_->start_at(positions);
  }

  Result<void> start_control(std::optional<OwnedFd> inherited) {
    ControlOptions options{
        .version = start_.version,
        .upgrade = [this](const std::string& program, Upgrade::Done done) { upgrade(program, std::move(done)); },
        .inherited = std::move(inherited)};
    CW_TRY(control_, ControlServer::start(loop_, *graph_, config_.daemon.control, std::move(options)));
    return {};
  }

  void upgrade(const std::string& program, Upgrade::Done done) {
    if (is_stopping_ || (upgrade_ && !upgrade_->is_decided())) {
      done(fail(Errc::busy, "another upgrade is under way, or the daemon stops"));
      return;
    }
    Launch launch = start_.successor;
    if (!program.empty()) launch.program = program;
    auto answer = std::make_shared<Upgrade::Done>(std::move(done));
    auto started = Upgrade::start(loop_, *graph_, *control_, launch, [this, answer](Result<Upgrade::Outcome> outcome) {
      if (outcome) end_as_predecessor(outcome->pid);
      (*answer)(std::move(outcome));
    });
    if (started) {
      upgrade_ = std::move(*started);
    } else {
      (*answer)(fail(std::move(started).error()));
    }
  }

  void end_as_predecessor(pid_t successor) {
    ::sd_notify(0, fmt::format("MAINPID={}", successor).c_str());
    has_handed_over_ = true;
    end();
  }

  void stop() {
    if (is_stopping_) return;
    log::info("stopping");
    upgrade_.reset();
    if (has_descriptor_store()) {
      if (auto left = leave_in_store(); !left) log::warn("front-ends will see a disconnect: {}", left.error().text());
    }
    end();
  }

  void end() {
    is_stopping_ = true;
    control_->stop([this] { loop_.stop(); });
  }

  const config::Config& config_;
  Start start_;
  Loop loop_;
  std::unique_ptr<Graph> graph_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<Upgrade> upgrade_;
  bool is_stopping_ = false;
  bool has_handed_over_ = false;
};

}  // namespace

Result<void> serve(const config::Config& config, Start start) {
  std::signal(SIGPIPE, SIG_IGN);
  CW_CHECK(raise_descriptor_limit());
  CW_TRY(auto loss, EventFd::make());
  const auto on_loss = std::make_shared<const EventFd>(std::move(loss));
  CW_CHECK(survive_lost_mappings(on_loss));
  const bool is_successor = start.predecessor.has_value();
  Run run(config, std::move(start));
  CW_CHECK(is_successor ? run.take_over() : run.begin());
  run.run(*on_loss);
  return {};
}

}  // namespace causeway::daemon

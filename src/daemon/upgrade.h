// The old process's end of a live upgrade.
#pragma once

#include "base/child.h"
#include "base/loop.h"
#include "base/parcel.h"
#include "base/result.h"
#include "base/unix_socket.h"

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace causeway::daemon {

class ControlServer;
class Graph;

/// How to start a daemon that takes over from this one.
struct Launch {
  std::filesystem::path program;
  std::vector<std::string> arguments;  ///< without the program's own name
};

/// One attempt. Queues run until the new process is ready for them; if it fails in any way it is killed, and this one
/// goes on as if nothing had been. Thread: control.
class Upgrade {
 public:
  struct Outcome {
    std::string version;  ///< of the new process
    pid_t pid;
    std::chrono::microseconds pause;  ///< how long no queue ran
  };
  /// Called once, when it is decided. After a success this process has no business with its ports any more.
  using Done = std::move_only_function<void(Result<Outcome>)>;

  /// Errc::not_supported: a port cannot be handed over; Errc::system: the program cannot be started. Graph, server and
  /// loop must outlive it.
  static Result<std::unique_ptr<Upgrade>> start(Loop& loop, Graph& graph, ControlServer& control, const Launch& launch,
                                                Done done);
  Upgrade(const Upgrade&) = delete;
  Upgrade& operator=(const Upgrade&) = delete;
  /// Gives up what is not decided yet.
  ~Upgrade();

  bool is_decided() const { return stage_ == Stage::decided; }

 private:
  enum class Stage : std::uint8_t { hello, ready, decided };

  Upgrade(Loop& loop, Graph& graph, ControlServer& control, Child child, UnixSocket socket, Done done);
  void on_message();
  Result<void> send_estate();
  Result<void> hand_over_queues();
  Result<Parcel> receive(std::chrono::milliseconds patience) const;
  Result<void> receive_answer(std::chrono::milliseconds patience) const;
  void give_up(Error why);

  Graph& graph_;
  ControlServer& control_;
  std::optional<Child> child_;
  std::optional<UnixSocket> socket_;
  Done done_;
  Stage stage_ = Stage::hello;
  bool is_frozen_ = false;
  bool is_paused_ = false;
  bool are_positions_sent_ = false;
  std::string version_;
  std::optional<Loop::Registration> watch_;
  std::optional<Loop::Registration> patience_;
};

}  // namespace causeway::daemon

// Finds the back-end of a Frontend: connects to it, or waits for it to connect.
#pragma once

#include "base/loop.h"
#include "base/unix_socket.h"
#include "vhost_user/role.h"

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace causeway::vhost_user {

/// In the role `listen` the socket is there as long as this object is; who connects while nobody is looked for waits.
/// Thread: control.
class Connector {
 public:
  using OnFound = std::function<void(UnixSocket)>;

  /// Errc::busy, Errc::invalid_value, Errc::system: the path cannot be listened on. `loop` must outlive it.
  static Result<std::unique_ptr<Connector>> make(Loop& loop, std::filesystem::path path, Role role);
  Connector(const Connector&) = delete;
  Connector& operator=(const Connector&) = delete;

  /// Waits for a back-end, at most `patience`. Errc::gone: none came.
  Result<UnixSocket> wait(std::chrono::milliseconds patience);
  /// Looks for a back-end in the background until one is there, then calls `on_found` once, from the loop. The search
  /// begins at once, but not sooner than kFirstBackOff after the last one has ended, and later and later when that
  /// one was not followed by `settled`.
  void seek(OnFound on_found);
  /// What was found is good.
  void settled() { back_off_ = kFirstBackOff; }

  static constexpr std::chrono::milliseconds kFirstBackOff{50};
  static constexpr std::chrono::milliseconds kLongestBackOff{2000};

 private:
  Connector(Loop& loop, std::filesystem::path path) : loop_(loop), path_(std::move(path)) {}
  Result<UnixSocket> try_once() const;
  void try_after(std::chrono::milliseconds delay);
  void on_turn();

  Loop& loop_;
  std::filesystem::path path_;
  std::optional<UnixListener> listener_;  // role listen
  std::chrono::milliseconds back_off_ = kFirstBackOff;
  std::chrono::steady_clock::time_point found_ = std::chrono::steady_clock::now();
  OnFound on_found_;
  std::optional<Loop::Registration> watch_;  // of the listener; destroyed before it
  std::optional<Loop::Registration> retry_;
};

}  // namespace causeway::vhost_user

// A program started by this one.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"

#include <sys/types.h>

#include <filesystem>
#include <span>
#include <string>

namespace causeway {

/// A child process. It is killed and waited for when this is destroyed, unless it was let go. Thread: one at a time.
class Child {
 public:
  /// Number under which a child finds the descriptor that it was given.
  static constexpr int kGivenFd = 3;

  /// Starts `program` with `arguments` (without the program's own name), our environment, and our standard streams.
  /// `given` becomes its descriptor kGivenFd; it inherits no other. Errc::system when it cannot be started.
  static Result<Child> start(const std::filesystem::path& program, std::span<const std::string> arguments,
                             const OwnedFd& given);
  Child(Child&& other) noexcept : pid_(other.pid_) { other.pid_ = kNone; }
  Child& operator=(Child&&) = delete;
  ~Child() { kill(); }

  pid_t pid() const { return pid_; }
  /// Ends it at once and waits until it is gone: after that it touches nothing any more.
  void kill();
  /// It goes on without us.
  void let_go() { pid_ = kNone; }

 private:
  static constexpr pid_t kNone = 0;
  explicit Child(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

}  // namespace causeway

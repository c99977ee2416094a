// Memory whose pages come when they are asked for: faults in it go to another process, which puts the pages there.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"
#include "memory/memory_map.h"

#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace causeway::memory {

/// A userfaultfd(2). Whoever touches a page of a region that was taken, and that the region's file does not have yet,
/// waits until the owner of a copy of the descriptor has put it there and woken us. Thread: any.
class UserFaults {
 public:
  /// Errc::system: the kernel has none, or this process may not have faults of the kernel itself handled (it needs
  /// CAP_SYS_PTRACE, /dev/userfaultfd, or the sysctl vm.unprivileged_userfaultfd).
  static Result<std::shared_ptr<UserFaults>> make();
  UserFaults(const UserFaults&) = delete;
  UserFaults& operator=(const UserFaults&) = delete;
  ~UserFaults() { end(); }

  /// What the other process reads faults from, and wakes us by.
  const OwnedFd& fd() const { return fd_; }

  /// Has faults in the region go there. Once more does no harm. The mapping is kept until the end. Errc::gone after
  /// `end`.
  Result<void> take(const Region& region);
  /// Nobody waits any more, nor will: what has not come reads as zeros.
  void end();

 private:
  explicit UserFaults(OwnedFd fd) : fd_(std::move(fd)) {}

  OwnedFd fd_;
  std::mutex mutex_;
  bool has_ended_ = false;
  std::vector<std::shared_ptr<const Mapping>> taken_;
};

}  // namespace causeway::memory

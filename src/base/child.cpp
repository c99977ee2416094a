#include "base/child.h"

#include <fmt/format.h>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <vector>

namespace causeway {
namespace {

/// What posix_spawn is told; freed with it.
class SpawnPlan {
 public:
  SpawnPlan() {
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawnattr_init(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;
  ~SpawnPlan() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }

  /// Signals that we block or ignore are the child's again.
  void reset_signals() {
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  void give(const OwnedFd& fd) {
    ::posix_spawn_file_actions_adddup2(&actions_, fd.borrow(), Child::kGivenFd);
    // Whatever a library has opened without close-on-exec stays here.
    ::posix_spawn_file_actions_addclosefrom_np(&actions_, Child::kGivenFd + 1);
  }

  const posix_spawn_file_actions_t* actions() const { return &actions_; }
  const posix_spawnattr_t* attributes() const { return &attributes_; }

 private:
  posix_spawn_file_actions_t actions_{};
  posix_spawnattr_t attributes_{};
};

}  // namespace

Result<Child> Child::start(const std::filesystem::path& program, std::span<const std::string> arguments,
                           const OwnedFd& given) {
  std::vector<std::string> words{program.native()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> raw;
  raw.reserve(words.size() + 1);
  for (std::string& word : words) raw.push_back(word.data());
  raw.push_back(nullptr);
  SpawnPlan plan;
  plan.reset_signals();
  plan.give(given);
  pid_t pid = kNone;
  const int error = ::posix_spawn(&pid, program.c_str(), plan.actions(), plan.attributes(), raw.data(), environ);
  if (error != 0) return fail(system_error(fmt::format("start '{}'", program.native()), error));
  return Child(pid);
}

void Child::kill() {
  if (pid_ == kNone) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = kNone;
}

}  // namespace causeway

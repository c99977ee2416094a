#include "cli/command.h"

#include "base/owned_fd.h"

#include <fmt/format.h>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

namespace causeway::cli {
namespace {

constexpr std::size_t kMostRead = std::size_t{1} << 20;

/// Which descriptors the program is given; freed with it.
class Streams {
 public:
  Streams() { ::posix_spawn_file_actions_init(&actions_); }
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;
  ~Streams() { ::posix_spawn_file_actions_destroy(&actions_); }
  void give(const OwnedFd& file, int as) { ::posix_spawn_file_actions_adddup2(&actions_, file.borrow(), as); }
  const posix_spawn_file_actions_t* actions() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

Result<void> write_all(const OwnedFd& file, std::string_view bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t count = ::pwrite(file.borrow(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return fail(system_error("write the input of a program"));
    done += static_cast<std::size_t>(count);
  }
  return {};
}

Result<std::string> read_all(const OwnedFd& file) {
  CW_TRY(const std::uint64_t size, size_of(file));
  std::string bytes(std::min<std::uint64_t>(size, kMostRead), '\0');
  const ssize_t count = ::pread(file.borrow(), bytes.data(), bytes.size(), 0);
  if (count < 0) return fail(system_error("read the output of a program"));
  bytes.resize(static_cast<std::size_t>(count));
  return bytes;
}

Result<int> wait_for(pid_t pid, const std::string& program) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return fail(system_error(fmt::format("wait for '{}'", program)));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

Result<CommandOutcome> run_command(std::vector<std::string> words, std::string_view input) {
  // Files, not pipes: nobody waits for anybody, and ssh's background process may keep them open.
  CW_TRY(const auto in, make_memfd("input", 0));
  CW_TRY(const auto out, make_memfd("output", 0));
  CW_TRY(const auto err, make_memfd("errors", 0));
  CW_CHECK(write_all(in, input));
  Streams streams;
  streams.give(in, STDIN_FILENO);
  streams.give(out, STDOUT_FILENO);
  streams.give(err, STDERR_FILENO);
  std::vector<char*> raw;
  raw.reserve(words.size() + 1);
  for (std::string& word : words) raw.push_back(word.data());
  raw.push_back(nullptr);
  pid_t pid = 0;
  const int error = ::posix_spawnp(&pid, raw.front(), streams.actions(), nullptr, raw.data(), environ);
  if (error != 0) return fail(system_error(fmt::format("start '{}'", words.front()), error));
  CW_TRY(const int status, wait_for(pid, words.front()));
  CW_TRY(auto output, read_all(out));
  CW_TRY(auto errors, read_all(err));
  return CommandOutcome{.status = status, .output = std::move(output), .errors = std::move(errors)};
}

}  // namespace causeway::cli

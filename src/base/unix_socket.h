// Unix stream sockets that carry descriptors.
#pragma once

#include "base/owned_fd.h"

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

namespace causeway {

/// What one read brought. `bytes` is 0 when nothing was there to be read yet.
struct Received {
  std::size_t bytes = 0;
  std::vector<OwnedFd> fds;
  bool closed = false;     ///< the peer closed its end
  bool truncated = false;  ///< the peer sent more descriptors than fit, or we had no descriptor left: some were lost
};

/// A connected, non-blocking unix stream socket. Thread: one at a time.
class UnixSocket {
 public:
  /// Most descriptors one message may carry (SCM_MAX_FD of the kernel).
  static constexpr std::size_t kMaxFds = 253;

  static Result<UnixSocket> connect(const std::filesystem::path& path);
  static Result<UnixSocket> adopt(OwnedFd fd);
  static Result<std::pair<UnixSocket, UnixSocket>> make_pair();

  /// Reads at most `buffer.size()` bytes and the descriptors that came with them; they are owned from here on.
  Result<Received> receive(std::span<std::byte> buffer) const;
  /// Sends all of `bytes`, with `fds` attached to the first byte. Waits for room at most `kSendPatience`, so that a
  /// peer that does not read cannot stop us.
  Result<void> send(std::span<const std::byte> bytes, std::span<const OwnedFd* const> fds = {}) const;
  const OwnedFd& fd() const { return fd_; }

 private:
  explicit UnixSocket(OwnedFd fd) : fd_(std::move(fd)) {}
  OwnedFd fd_;
};

/// A listening unix stream socket. Its path is removed when it is destroyed.
class UnixListener {
 public:
  /// Binds to `path`. A socket file that no process listens on any more is replaced; one in use is an error.
  static Result<UnixListener> bind(std::filesystem::path path);
  /// Goes on with a listening socket bound to `path` that another process has handed over.
  static Result<UnixListener> adopt(OwnedFd fd, std::filesystem::path path);
  UnixListener(UnixListener&&) noexcept = default;
  UnixListener& operator=(UnixListener&&) = delete;
  ~UnixListener();

  /// The next connection; Errc::busy when none waits. EMFILE and the like come back as Errc::system.
  Result<UnixSocket> accept() const;
  const OwnedFd& fd() const { return fd_; }
  const std::filesystem::path& path() const { return path_; }
  /// Leaves the path to another process, which has taken a duplicate of the descriptor: it is not removed at the end.
  void leave_path() { path_.clear(); }
  /// The path is ours to remove, after all.
  void keep_path(std::filesystem::path path) { path_ = std::move(path); }

 private:
  UnixListener(OwnedFd fd, std::filesystem::path path) : fd_(std::move(fd)), path_(std::move(path)) {}
  OwnedFd fd_;
  std::filesystem::path path_;  // empty: not ours to remove
};

}  // namespace causeway

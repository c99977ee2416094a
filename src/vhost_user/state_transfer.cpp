#include "vhost_user/state_transfer.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <utility>

namespace causeway::vhost_user {
namespace {

constexpr std::size_t kPiece = 65536;  // bytes written or read at once: what a pipe holds
/// Pieces in one turn of the loop, so that no front-end keeps it from other ports.
constexpr int kPiecesPerTurn = 4;

bool is_channel(const OwnedFd& fd) {
  struct stat about{};
  if (::fstat(fd.borrow(), &about) != 0) return false;
  if (S_ISFIFO(about.st_mode)) return true;
  int type = 0;
  socklen_t size = sizeof type;
  return S_ISSOCK(about.st_mode) && ::getsockopt(fd.borrow(), SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
         type == SOCK_STREAM;
}

/// Checks that it is a channel in that direction, and has it never wait.
Result<void> prepare(const OwnedFd& fd, int useless_mode) {
  if (!is_channel(fd)) return fail(Errc::peer_violation, "the descriptor is neither pipe nor stream socket");
  const int flags = ::fcntl(fd.borrow(), F_GETFL);
  if (flags < 0) return fail(system_error("look at the channel"));
  if ((flags & O_ACCMODE) == useless_mode) {
    return fail(Errc::peer_violation, "the descriptor is the wrong end of the pipe");
  }
  if (::fcntl(fd.borrow(), F_SETFL, flags | O_NONBLOCK) < 0) return fail(system_error("make a channel non-blocking"));
  return {};
}

/// write() to a channel without SIGPIPE, which a program that uses us need not ignore.
ssize_t write_quietly(const OwnedFd& fd, std::span<const std::byte> bytes) {
  sigset_t pipe{};
  sigset_t before{};
  sigset_t pending{};
  ::sigemptyset(&pipe);
  ::sigaddset(&pipe, SIGPIPE);
  ::sigpending(&pending);
  ::pthread_sigmask(SIG_BLOCK, &pipe, &before);
  const ssize_t written = ::write(fd.borrow(), bytes.data(), bytes.size());
  const int error = errno;
  if (written < 0 && error == EPIPE && ::sigismember(&pending, SIGPIPE) == 0) {
    const timespec at_once{};
    ::sigtimedwait(&pipe, nullptr, &at_once);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return written;
}

}  // namespace

Result<std::unique_ptr<StateTransfer>> StateTransfer::send(Loop& loop, OwnedFd channel, std::vector<std::byte> state) {
  CW_CHECK(prepare(channel, O_RDONLY));
  std::unique_ptr<StateTransfer> transfer(new StateTransfer(std::move(channel)));
  transfer->bytes_ = std::move(state);
  transfer->watch_ = loop.watch_writable(*transfer->channel_, [self = transfer.get()] { self->go_on(); });
  return transfer;
}

Result<std::unique_ptr<StateTransfer>> StateTransfer::receive(Loop& loop, OwnedFd channel, std::size_t longest,
                                                              Take take) {
  CW_CHECK(prepare(channel, O_WRONLY));
  std::unique_ptr<StateTransfer> transfer(new StateTransfer(std::move(channel)));
  transfer->longest_ = longest;
  transfer->take_ = std::move(take);
  transfer->watch_ = loop.watch(*transfer->channel_, [self = transfer.get()] { self->go_on(); });
  return transfer;
}

void StateTransfer::go_on() {
  for (int i = 0; i < kPiecesPerTurn && is_under_way(); ++i) {
    if (!(take_ ? read_some() : write_some())) return;
  }
}

Result<void> StateTransfer::finish() {
  // The longest state bounds it.
  while (is_under_way() && (take_ ? read_some() : write_some())) continue;
  if (is_under_way()) {
    end(fail(Errc::peer_violation, take_ ? "the front-end has not closed its end of the channel"
                                         : "the front-end has not read all of the device's state"));
  }
  return outcome_;
}

/// True when it may go on.
bool StateTransfer::write_some() {
  const auto rest = std::span<const std::byte>(bytes_).subspan(done_);
  const ssize_t written = write_quietly(*channel_, rest.first(std::min(rest.size(), kPiece)));
  if (written < 0) return stop_for(errno, "write the device's state");
  done_ += static_cast<std::size_t>(written);
  if (done_ == bytes_.size()) end({});
  return is_under_way();
}

bool StateTransfer::read_some() {
  const std::size_t before = bytes_.size();
  // One byte more than is allowed tells a state that is too long from one that has ended.
  bytes_.resize(std::min(before + kPiece, longest_ + 1));
  const ssize_t got = ::read(channel_->borrow(), bytes_.data() + before, bytes_.size() - before);
  const int error = errno;
  bytes_.resize(before + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  if (got < 0) return stop_for(error, "read the device's state");
  if (bytes_.size() > longest_) {
    end(fail(Errc::peer_violation, fmt::format("the device's state has more than {} bytes", longest_)));
  } else if (got == 0) {
    end(take_(bytes_));
  }
  return is_under_way();
}

bool StateTransfer::stop_for(int error, const char* call) {
  if (error == EINTR) return true;
  if (error == EAGAIN) return false;
  if (error == EPIPE || error == ECONNRESET) {
    end(fail(Errc::gone, "the front-end has closed its end of the channel too early"));
  } else {
    end(fail(system_error(call, error)));
  }
  return false;
}

void StateTransfer::end(Result<void> outcome) {
  outcome_ = std::move(outcome);
  watch_.reset();
  channel_.reset();
  bytes_ = {};
}

}  // namespace causeway::vhost_user

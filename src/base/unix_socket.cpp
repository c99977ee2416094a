#include "base/unix_socket.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace causeway {
namespace {

constexpr std::chrono::milliseconds kSendPatience(2000);

Result<OwnedFd> make_socket() {
  const int raw = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (raw < 0) return fail(system_error("socket"));
  return OwnedFd::adopt(raw);
}

Result<sockaddr_un> address_of(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto& text = path.native();
  if (text.empty() || text.size() >= sizeof address.sun_path) {
    return fail(Errc::invalid_value,
                fmt::format("socket path '{}' must have 1 to {} characters", text, sizeof address.sun_path - 1));
  }
  std::memcpy(static_cast<void*>(address.sun_path), text.data(), text.size());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) {
  // The sockets API takes every address family through this cast.
  return reinterpret_cast<const sockaddr*>(&address);
}

void take_fds(msghdr& message, Received& received) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int raw = 0;
      std::memcpy(&raw, CMSG_DATA(part) + i * sizeof raw, sizeof raw);
      received.fds.push_back(OwnedFd::adopt(raw));
    }
  }
  received.truncated = (message.msg_flags & MSG_CTRUNC) != 0;
}

Result<void> wait_writable(const OwnedFd& fd) {
  pollfd entry{.fd = fd.borrow(), .events = POLLOUT, .revents = 0};
  const int ready = ::poll(&entry, 1, static_cast<int>(kSendPatience.count()));
  if (ready > 0) return {};
  if (ready == 0) return fail(Errc::gone, "the peer does not read its socket");
  return fail(system_error("poll"));
}

}  // namespace

Result<UnixSocket> UnixSocket::connect(const std::filesystem::path& path) {
  CW_TRY(const auto address, address_of(path));
  CW_TRY(auto fd, make_socket());
  if (::connect(fd.borrow(), generic(address), sizeof address) != 0) {
    return fail(system_error(fmt::format("connect to '{}'", path.native())));
  }
  return UnixSocket(std::move(fd));
}

Result<UnixSocket> UnixSocket::adopt(OwnedFd fd) {
  const int flags = ::fcntl(fd.borrow(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.borrow(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return fail(system_error("make a socket non-blocking"));
  }
  return UnixSocket(std::move(fd));
}

Result<std::pair<UnixSocket, UnixSocket>> UnixSocket::make_pair() {
  std::array<int, 2> raw{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, raw.data()) != 0) {
    return fail(system_error("socketpair"));
  }
  return std::pair(UnixSocket(OwnedFd::adopt(raw[0])), UnixSocket(OwnedFd::adopt(raw[1])));
}

Result<Received> UnixSocket::receive(std::span<std::byte> buffer) const {
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxFds)> control{};
  iovec part{.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  Received received;
  ssize_t count = 0;
  do {
    count = ::recvmsg(fd_.borrow(), &message, MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return received;
    return fail(system_error("recvmsg"));
  }
  take_fds(message, received);
  received.bytes = static_cast<std::size_t>(count);
  received.closed = count == 0;
  return received;
}

Result<void> UnixSocket::send(std::span<const std::byte> bytes, std::span<const OwnedFd* const> fds) const {
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxFds)> control{};
  if (fds.size() > kMaxFds) return fail(Errc::invalid_value, "too many descriptors in one message");
  while (!bytes.empty()) {
    iovec part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
      cmsghdr* head = CMSG_FIRSTHDR(&message);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      for (std::size_t i = 0; i < fds.size(); ++i) {
        const int raw = fds[i]->borrow();
        std::memcpy(CMSG_DATA(head) + i * sizeof raw, &raw, sizeof raw);
      }
    }
    const ssize_t count = ::sendmsg(fd_.borrow(), &message, MSG_NOSIGNAL);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) return fail(system_error("sendmsg"));
      CW_CHECK(wait_writable(fd_));
      continue;
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    fds = {};
  }
  return {};
}

Result<UnixListener> UnixListener::bind(std::filesystem::path path) {
  CW_TRY(const auto address, address_of(path));
  CW_TRY(auto fd, make_socket());
  if (::bind(fd.borrow(), generic(address), sizeof address) != 0) {
    if (errno != EADDRINUSE) return fail(system_error(fmt::format("bind '{}'", path.native())));
    if (UnixSocket::connect(path)) {
      return fail(Errc::busy, fmt::format("socket '{}' is in use by another process", path.native()));
    }
    if (!std::filesystem::is_socket(path)) {
      return fail(Errc::invalid_value, fmt::format("'{}' exists and is no socket", path.native()));
    }
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
    if (::bind(fd.borrow(), generic(address), sizeof address) != 0) {
      return fail(system_error(fmt::format("bind '{}'", path.native())));
    }
  }
  if (::listen(fd.borrow(), SOMAXCONN) != 0) return fail(system_error(fmt::format("listen on '{}'", path.native())));
  return UnixListener(std::move(fd), std::move(path));
}

Result<UnixListener> UnixListener::adopt(OwnedFd fd, std::filesystem::path path) {
  int listens = 0;
  socklen_t size = sizeof listens;
  if (::getsockopt(fd.borrow(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0) {
    return fail(Errc::invalid_value, fmt::format("the descriptor for '{}' is no listening socket", path.native()));
  }
  return UnixListener(std::move(fd), std::move(path));
}

UnixListener::~UnixListener() {
  if (path_.empty()) return;
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

Result<UnixSocket> UnixListener::accept() const {
  int raw = -1;
  do {
    raw = ::accept4(fd_.borrow(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  } while (raw < 0 && errno == EINTR);
  if (raw < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ECONNABORTED) {
      return fail(Errc::busy, fmt::format("no connection waits on '{}'", path_.native()));
    }
    return fail(system_error(fmt::format("accept on '{}'", path_.native())));
  }
  return UnixSocket::adopt(OwnedFd::adopt(raw));
}

}  // namespace causeway

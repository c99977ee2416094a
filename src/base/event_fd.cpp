#include "base/event_fd.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace causeway {
namespace {

/// Regular files and directories are the usual mistakes; a pipe or socket would do, but the standard says eventfd.
bool is_eventfd(const OwnedFd& fd) {
  std::array<char, 64> target{};
  const auto path = fmt::format("/proc/self/fd/{}", fd.borrow());
  const auto length = ::readlink(path.c_str(), target.data(), target.size());
  return length > 0 && std::string_view(target.data(), static_cast<std::size_t>(length)) == "anon_inode:[eventfd]";
}

}  // namespace

Result<EventFd> EventFd::make() {
  const int raw = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (raw < 0) return fail(system_error("eventfd"));
  return EventFd(OwnedFd::adopt(raw));
}

Result<EventFd> EventFd::adopt(OwnedFd fd) {
  if (!is_eventfd(fd)) return fail(Errc::peer_violation, "descriptor is no eventfd");
  const int flags = ::fcntl(fd.borrow(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.borrow(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return fail(system_error("make an eventfd non-blocking"));
  }
  return EventFd(std::move(fd));
}

void EventFd::signal() const {
  const std::uint64_t one = 1;
  // EAGAIN means that the counter is full, which wakes the reader as well as one more would.
  [[maybe_unused]] const auto written = ::write(fd_.borrow(), &one, sizeof one);
}

bool EventFd::drain() const {
  std::uint64_t count = 0;
  return ::read(fd_.borrow(), &count, sizeof count) == sizeof count;
}

Result<EventFd> EventFd::duplicate() const {
  CW_TRY(auto copy, fd_.duplicate());
  return EventFd(std::move(copy));
}

}  // namespace causeway

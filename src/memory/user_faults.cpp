#include "memory/user_faults.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <utility>

namespace causeway::memory {
namespace {

/// Not limited to faults from user space: the kernel touches guest memory too, as it reads a disk into it.
Result<OwnedFd> open_userfaultfd() {
  const long raw = ::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (raw >= 0) return OwnedFd::adopt(static_cast<int>(raw));
  const auto refused = system_error("userfaultfd");
  const int door = ::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (door < 0) return fail(refused);
  const auto device = OwnedFd::adopt(door);
  const int opened = ::ioctl(device.borrow(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  if (opened < 0) return fail(system_error("/dev/userfaultfd"));
  return OwnedFd::adopt(opened);
}

uffdio_range range_of(const Mapping& mapping) {
  const auto pages = mapping.pages();
  return {.start = std::bit_cast<std::uintptr_t>(pages.data()), .len = pages.size()};
}

}  // namespace

Result<std::shared_ptr<UserFaults>> UserFaults::make() {
  CW_TRY(auto fd, open_userfaultfd());
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  if (::ioctl(fd.borrow(), UFFDIO_API, &api) != 0) return fail(system_error("UFFDIO_API"));
  return std::shared_ptr<UserFaults>(new UserFaults(std::move(fd)));
}

Result<void> UserFaults::take(const Region& region) {
  const std::scoped_lock lock(mutex_);
  if (has_ended_) return fail(Errc::gone, "whoever resolves page faults has gone");
  if (std::ranges::find(taken_, region.mapping) != taken_.end()) return {};
  uffdio_register wish{.range = range_of(*region.mapping), .mode = UFFDIO_REGISTER_MODE_MISSING, .ioctls = 0};
  if (::ioctl(fd_.borrow(), UFFDIO_REGISTER, &wish) != 0) {
    return fail(system_error("UFFDIO_REGISTER of memory region " + region.text()));
  }
  taken_.push_back(region.mapping);
  return {};
}

void UserFaults::end() {
  const std::scoped_lock lock(mutex_);
  has_ended_ = true;
  for (const auto& mapping : std::exchange(taken_, {})) {
    auto range = range_of(*mapping);
    // It wakes who waits there. It cannot fail: the mapping is ours, and is still there.
    ::ioctl(fd_.borrow(), UFFDIO_UNREGISTER, &range);
  }
}

}  // namespace causeway::memory

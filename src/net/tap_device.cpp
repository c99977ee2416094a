#include "net/tap_device.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#ifndef TUN_F_USO4  // Linux 6.2; Debian 12's headers are 6.1
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

namespace causeway::net {
namespace {

ifreq request_for(const std::string& name) {
  ifreq request{};
  name.copy(static_cast<char*>(request.ifr_name), IFNAMSIZ - 1);
  return request;
}

Error tap_error(const std::string& name, std::string_view what) {
  Error error = system_error(fmt::format("tap {}: {}", name, what));
  if (error.sys_errno == EPERM || error.sys_errno == EACCES) error.what += " (CAP_NET_ADMIN is needed)";
  return error;
}

Result<void> check_name(const std::string& name) {
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return fail(Errc::invalid_value, fmt::format("tap name '{}' must have 1 to {} characters", name, IFNAMSIZ - 1));
  }
  // The kernel would take "tap%d" for a pattern, and give every queue an interface of its own.
  if (name.find_first_of("%/: \t\n") != std::string::npos) {
    return fail(Errc::invalid_value, fmt::format("tap name '{}' must not contain '%', '/', ':' or blanks", name));
  }
  return {};
}

Error attach_error(const std::string& name, bool multiqueue) {
  Error error = tap_error(name, "attach a queue");
  if (error.sys_errno == EBUSY) {
    error.code = Errc::busy;
    error.what += " (another process has it)";
  } else if (error.sys_errno == EINVAL) {
    error.code = Errc::invalid_value;
    error.what += multiqueue ? " (an interface of that name exists that is no tap, or was made without multi_queue)"
                             : " (an interface of that name exists that is no tap)";
  } else if (error.sys_errno == E2BIG) {
    error.code = Errc::busy;
    error.what += " (another process has queues of it)";
  }
  return error;
}

bool attach(const OwnedFd& fd, const std::string& name, bool multiqueue) {
  ifreq request = request_for(name);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multiqueue ? IFF_MULTI_QUEUE : 0));
  return ::ioctl(fd.borrow(), TUNSETIFF, &request) == 0;
}

Result<OwnedFd> open_queue(const std::string& name, bool multiqueue) {
  const int raw = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (raw < 0) return fail(tap_error(name, "open /dev/net/tun"));
  auto fd = OwnedFd::adopt(raw);
  if (attach(fd, name, multiqueue)) return fd;
  // A persistent interface that was made for several queues serves one as well.
  if (errno == EINVAL && !multiqueue && attach(fd, name, true)) return fd;
  return fail(attach_error(name, multiqueue));
}

/// Any socket will do to configure interfaces with.
Result<OwnedFd> open_control_socket(const std::string& name) {
  const int raw = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (raw < 0) return fail(tap_error(name, "open a socket"));
  return OwnedFd::adopt(raw);
}

}  // namespace

Result<TapDevice> TapDevice::open(const std::string& name, std::uint16_t queues) {
  CW_CHECK(check_name(name));
  if (queues == 0 || queues > kMaxQueues) {
    return fail(Errc::invalid_value, fmt::format("tap {}: {} queues; expected 1 to {}", name, queues, kMaxQueues));
  }
  std::vector<OwnedFd> fds;
  for (std::uint16_t i = 0; i < queues; ++i) {
    CW_TRY(auto fd, open_queue(name, queues > 1));
    fds.push_back(std::move(fd));
  }
  TapDevice tap(name, std::move(fds));
  CW_CHECK(tap.set_header_size(12));
  CW_CHECK(tap.set_offloads({}));
  CW_CHECK(tap.take_up());
  return tap;
}

Result<void> TapDevice::take_up() const {
  CW_TRY(const auto socket, open_control_socket(name_));
  ifreq request = request_for(name_);
  if (::ioctl(socket.borrow(), SIOCGIFFLAGS, &request) != 0)
    return fail(tap_error(name_, "read the interface's flags"));
  // One that is up already needs no privilege.
  if ((request.ifr_flags & IFF_UP) != 0) return {};
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket.borrow(), SIOCSIFFLAGS, &request) != 0) return fail(tap_error(name_, "take the interface up"));
  return {};
}

Result<TapOffloads> TapDevice::set_offloads(TapOffloads offloads) const {
  // The kernel takes segmentation only together with checksums, and ECN only together with segmentation.
  TapOffloads wanted;
  if (offloads.csum) wanted = offloads;
  wanted.ecn = wanted.ecn && (wanted.tso4 || wanted.tso6);
  const unsigned flags = (wanted.csum ? TUN_F_CSUM : 0U) | (wanted.tso4 ? TUN_F_TSO4 : 0U) |
                         (wanted.tso6 ? TUN_F_TSO6 : 0U) | (wanted.ecn ? TUN_F_TSO_ECN : 0U);
  const unsigned uso = wanted.uso ? unsigned{TUN_F_USO4 | TUN_F_USO6} : 0U;
  const int fd = queues_.front().borrow();
  if (uso != 0 && ::ioctl(fd, TUNSETOFFLOAD, static_cast<unsigned long>(flags | uso)) == 0) return wanted;
  if (::ioctl(fd, TUNSETOFFLOAD, static_cast<unsigned long>(flags)) != 0) return fail(tap_error(name_, "set offloads"));
  wanted.uso = false;
  return wanted;
}

Result<void> TapDevice::set_header_size(std::uint32_t bytes) const {
  // Of the whole interface, whichever queue it is set on.
  const int size = static_cast<int>(bytes);
  if (::ioctl(queues_.front().borrow(), TUNSETVNETHDRSZ, &size) == 0) return {};
  return fail(tap_error(name_, fmt::format("set the header's size to {} bytes", bytes)));
}

Result<void> TapDevice::set_mtu(std::uint16_t mtu) const {
  CW_TRY(const auto socket, open_control_socket(name_));
  ifreq request = request_for(name_);
  request.ifr_mtu = mtu;
  if (::ioctl(socket.borrow(), SIOCSIFMTU, &request) == 0) return {};
  return fail(tap_error(name_, fmt::format("set an MTU of {}", mtu)));
}

Result<void> TapDevice::attach_queue(std::uint16_t index) {
  return change_queue(index, true);
}

Result<void> TapDevice::detach_queue(std::uint16_t index) {
  return change_queue(index, false);
}

Result<void> TapDevice::change_queue(std::uint16_t index, bool attached) {
  if (index >= queues_.size() || (index == 0 && !attached)) {
    return fail(Errc::invalid_value, fmt::format("tap {}: queue {} of {} cannot be {}", name_, index, queues_.size(),
                                                 attached ? "attached" : "detached"));
  }
  if (attached_[index] == attached) return {};
  ifreq request{};
  request.ifr_flags = static_cast<short>(attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
  if (::ioctl(queues_[index].borrow(), TUNSETQUEUE, &request) != 0)
    return fail(tap_error(name_, fmt::format("{} queue {}", attached ? "attach" : "detach", index)));
  attached_[index] = attached;
  return {};
}

Result<std::size_t> TapDevice::read(std::uint16_t index, std::span<const iovec> parts) const {
  const ssize_t count = ::readv(queues_[index].borrow(), parts.data(), static_cast<int>(parts.size()));
  if (count >= 0) return static_cast<std::size_t>(count);
  if (errno == EAGAIN || errno == EINTR) return std::size_t{0};
  return fail(tap_error(name_, "read"));
}

Result<std::size_t> TapDevice::write(std::uint16_t index, std::span<const iovec> parts) const {
  const ssize_t count = ::writev(queues_[index].borrow(), parts.data(), static_cast<int>(parts.size()));
  if (count >= 0) return static_cast<std::size_t>(count);
  if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS) return std::size_t{0};
  return fail(tap_error(name_, "write"));
}

}  // namespace causeway::net

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
  if (error.sys_errno == EPERM) error.what += " (CAP_NET_ADMIN is needed)";
  if (error.sys_errno == EBUSY) error.what += " (another process has it, or it has fewer queues)";
  return error;
}

Result<OwnedFd> open_queue(const std::string& name, bool multiqueue) {
  const int raw = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (raw < 0) return fail(tap_error(name, "open /dev/net/tun"));
  auto fd = OwnedFd::adopt(raw);
  ifreq request = request_for(name);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multiqueue ? IFF_MULTI_QUEUE : 0));
  if (::ioctl(fd.borrow(), TUNSETIFF, &request) != 0) return fail(tap_error(name, "attach a queue"));
  return fd;
}

}  // namespace

Result<TapDevice> TapDevice::open(const std::string& name, std::uint16_t queues) {
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return fail(Errc::invalid_value, fmt::format("tap name '{}' must have 1 to {} characters", name, IFNAMSIZ - 1));
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
  const int raw = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (raw < 0) return fail(tap_error(name_, "socket"));
  const auto socket = OwnedFd::adopt(raw);
  ifreq request = request_for(name_);
  if (::ioctl(raw, SIOCGIFFLAGS, &request) != 0) return fail(tap_error(name_, "read the interface's flags"));
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(raw, SIOCSIFFLAGS, &request) != 0) return fail(tap_error(name_, "take the interface up"));
  return {};
}

Result<void> TapDevice::set_offloads(TapOffloads offloads) const {
  unsigned flags = 0;
  // The kernel takes segmentation only together with checksums.
  if (offloads.csum) {
    flags = TUN_F_CSUM | (offloads.tso4 ? TUN_F_TSO4 : 0U) | (offloads.tso6 ? TUN_F_TSO6 : 0U);
    if (offloads.ecn && (offloads.tso4 || offloads.tso6)) flags |= TUN_F_TSO_ECN;
  }
  const unsigned uso = offloads.csum && offloads.uso ? unsigned{TUN_F_USO4 | TUN_F_USO6} : 0U;
  const int fd = queues_.front().borrow();
  if (uso != 0 && ::ioctl(fd, TUNSETOFFLOAD, static_cast<unsigned long>(flags | uso)) == 0) return {};
  if (::ioctl(fd, TUNSETOFFLOAD, static_cast<unsigned long>(flags)) != 0) return fail(tap_error(name_, "set offloads"));
  return {};
}

Result<void> TapDevice::set_header_size(std::uint32_t bytes) const {
  const int size = static_cast<int>(bytes);
  for (const OwnedFd& queue : queues_) {
    if (::ioctl(queue.borrow(), TUNSETVNETHDRSZ, &size) != 0) return fail(tap_error(name_, "set the header's size"));
  }
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

#include "vfio/kvm_device.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <bit>
#include <cerrno>
#include <cstdint>
#include <utility>

namespace causeway::vfio {
namespace {

Errc meaning_of(int number) {
  switch (number) {
    case EEXIST:
    case EBUSY:
      return Errc::busy;
    case EINVAL:
    case EBADF:
      return Errc::invalid_value;
    case ENOENT:
      return Errc::not_found;
    case ENODEV:
    case ENOTTY:
    case ENXIO:
      return Errc::not_supported;
    default:
      return Errc::system;
  }
}

Failure refused(const char* what) {
  Error error = system_error(what);
  error.code = meaning_of(error.sys_errno);
  return fail(std::move(error));
}

}  // namespace

Result<KvmDevice> KvmDevice::make(const OwnedFd& machine) {
  kvm_create_device request{.type = KVM_DEV_TYPE_VFIO, .fd = 0, .flags = 0};
  if (::ioctl(machine.borrow(), KVM_CREATE_DEVICE, &request) < 0) return refused("make KVM's VFIO device");
  // The kernel's type is unsigned, its descriptors are not.
  return adopt(OwnedFd::adopt(static_cast<int>(request.fd)));
}

Result<void> KvmDevice::add(const OwnedFd& group) const {
  return change(KVM_DEV_VFIO_GROUP_ADD, group, "tell KVM of a VFIO group");
}

Result<void> KvmDevice::remove(const OwnedFd& group) const {
  return change(KVM_DEV_VFIO_GROUP_DEL, group, "take a VFIO group from KVM");
}

Result<void> KvmDevice::change(std::uint64_t attribute, const OwnedFd& group, const char* what) const {
  std::int32_t number = group.borrow();
  kvm_device_attr request{.flags = 0, .group = KVM_DEV_VFIO_GROUP, .attr = attribute, .addr = 0};
  request.addr = std::bit_cast<std::uintptr_t>(&number);
  if (::ioctl(fd_.borrow(), KVM_SET_DEVICE_ATTR, &request) < 0) return refused(what);
  return {};
}

}  // namespace causeway::vfio

#include "vfio/kernel_group.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>

#include <cerrno>

namespace causeway::vfio {
namespace {

constexpr const char* kContainer = "/dev/vfio/vfio";

bool is_refused(const Error& error) {
  return error.sys_errno == EACCES || error.sys_errno == EPERM;
}

Result<OwnedFd> open_container() {
  const int raw = ::open(kContainer, O_RDWR | O_CLOEXEC);
  if (raw < 0) {
    Error error = system_error(fmt::format("open '{}'", kContainer));
    error.what +=
        is_refused(error) ? " (this user must be allowed to read and write it)" : " (load the kernel module vfio-pci)";
    return fail(std::move(error));
  }
  auto container = OwnedFd::adopt(raw);
  if (const int version = ::ioctl(raw, VFIO_GET_API_VERSION); version != VFIO_API_VERSION) {
    return fail(Errc::not_supported,
                fmt::format("'{}' is of version {}, not {}", kContainer, version, VFIO_API_VERSION));
  }
  if (::ioctl(raw, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) != 1) {
    return fail(
        Errc::not_supported,
        fmt::format("'{}' knows no IOMMU of type 1 version 2: load the kernel module vfio_iommu_type1", kContainer));
  }
  return container;
}

Error not_bound(const PciTree& tree, const std::string& address) {
  const std::string driver = tree.driver_of(address);
  return Error{.code = Errc::invalid_value,
               .what = fmt::format(
                   "PCI function {} is bound to {}, not to vfio-pci (`driverctl set-override {} vfio-pci` binds it)",
                   address, driver.empty() ? "no driver" : driver, address)};
}

Result<OwnedFd> open_group(const PciTree& tree, const std::string& address, const std::string& group) {
  const std::string path = "/dev/vfio/" + group;
  const int raw = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (raw >= 0) return OwnedFd::adopt(raw);
  Error error = system_error(fmt::format("open '{}', the IOMMU group of PCI function {}", path, address));
  if (error.sys_errno == ENOENT && tree.driver_of(address).find("vfio") == std::string::npos) {
    return fail(not_bound(tree, address));
  }
  if (error.sys_errno == EBUSY) {
    error.code = Errc::busy;
    error.what += " (another process uses a function of this group)";
  } else if (is_refused(error)) {
    error.what += " (this user must be allowed to read and write it, by a udev rule for instance)";
  }
  return fail(std::move(error));
}

Result<void> check_viable(const PciTree& tree, const OwnedFd& group, const std::string& address,
                          const std::string& name) {
  vfio_group_status status{.argsz = sizeof status, .flags = 0};
  if (::ioctl(group.borrow(), VFIO_GROUP_GET_STATUS, &status) < 0) {
    return fail(system_error(fmt::format("ask for the status of IOMMU group {}", name)));
  }
  if ((status.flags & VFIO_GROUP_FLAGS_VIABLE) != 0) return {};
  return fail(
      Errc::invalid_value,
      fmt::format(
          "PCI function {} shares IOMMU group {} with functions that must be bound to vfio-pci too, or unbound: {}",
          address, name, fmt::join(tree.hindrances_of(name), ", ")));
}

Result<void> join(const OwnedFd& group, const OwnedFd& container, const std::string& name) {
  int raw = container.borrow();
  if (::ioctl(group.borrow(), VFIO_GROUP_SET_CONTAINER, &raw) < 0) {
    return fail(system_error(fmt::format("put IOMMU group {} into a container", name)));
  }
  if (::ioctl(container.borrow(), VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0) return {};
  Error error = system_error(fmt::format("set up the IOMMU for group {}", name));
  if (error.sys_errno == EPERM) {
    error.what +=
        " (it does not remap interrupts, so that the function could forge some; if it is trusted: set "
        "allow_unsafe_interrupts of the kernel module vfio_iommu_type1)";
  }
  return fail(std::move(error));
}

}  // namespace

Result<KernelFiles> open_files(const PciTree& tree, const std::string& address) {
  CW_TRY(const std::string name, tree.group_of(address));
  CW_TRY(auto group, open_group(tree, address, name));
  CW_CHECK(check_viable(tree, group, address, name));
  CW_TRY(auto container, open_container());
  CW_CHECK(join(group, container, name));
  const int raw = ::ioctl(group.borrow(), VFIO_GROUP_GET_DEVICE_FD, address.c_str());
  if (raw < 0) {
    Error error = system_error(fmt::format("open PCI function {} in IOMMU group {}", address, name));
    return fail(error.sys_errno == ENODEV ? not_bound(tree, address) : std::move(error));
  }
  return KernelFiles{.container = std::move(container), .group = std::move(group), .function = OwnedFd::adopt(raw)};
}

}  // namespace causeway::vfio

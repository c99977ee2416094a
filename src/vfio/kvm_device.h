// KVM's VFIO device: what a VMM tells which VFIO groups a guest uses. Spec: Linux
// Documentation/virt/kvm/devices/vfio.rst.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"

#include <cstdint>
#include <utility>

namespace causeway::vfio {

/// With a group, KVM may let the interrupts of its functions go to the guest's processors without the host's, and takes
/// care of memory that the functions do not keep coherent. KVM looks by itself whether a descriptor is of a group.
/// The groups that are in it when it is destroyed stay until the virtual machine goes. Thread: any, one at a time.
class KvmDevice {
 public:
  /// Makes the one of a virtual machine: `machine` is what KVM_CREATE_VM gave, and stays the caller's. A machine has
  /// one only: Errc::busy: it has it already, from somebody who must give it to `adopt`. Errc::not_supported: this KVM
  /// has none; Errc::system.
  static Result<KvmDevice> make(const OwnedFd& machine);
  /// The device that the machine has, a descriptor that KVM_CREATE_DEVICE gave.
  static KvmDevice adopt(OwnedFd device) { return KvmDevice(std::move(device)); }

  /// Tells of a group; KVM keeps it open from then on. Errc::busy: it knows it; Errc::invalid_value: it is no group;
  /// Errc::system.
  Result<void> add(const OwnedFd& group) const;
  /// Has it forget the group, given by any descriptor of the open file that it was added by. Errc::not_found: it does
  /// not know it; Errc::system.
  Result<void> remove(const OwnedFd& group) const;

 private:
  explicit KvmDevice(OwnedFd fd) : fd_(std::move(fd)) {}
  Result<void> change(std::uint64_t attribute, const OwnedFd& group, const char* what) const;

  OwnedFd fd_;
};

}  // namespace causeway::vfio

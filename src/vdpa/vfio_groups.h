// The VFIO groups of the functions that interrupt one guest: each is known once, however many queues and Devices it
// serves. Spec: Linux Documentation/driver-api/vfio.rst, Documentation/virt/kvm/devices/vfio.rst.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

namespace causeway::vdpa {

/// The device number of a VFIO group. The kernel lets a group be opened only once at a time, so that descriptors of the
/// same number are of the same open file. Errc::invalid_value: no character device, so no group; what else is none,
/// only the kernel's VFIO can tell.
Result<std::uint64_t> number_of_group(const OwnedFd& group);

/// For a driver side that has the guest's virtual machine, to tell KVM's VFIO device which groups there are.
///
/// Invariants: (1) a group is added once, with its first share, and removed once, when the last one goes; (2) it is
/// removed by the very descriptor by which it was added; (3) no descriptor of it is open here after that. Thread:
/// control. Must outlive its shares.
class VfioGroups {
 public:
  /// What is done with a group that has come or that goes; it is lent for the call.
  using Use = std::function<Result<void>(const OwnedFd& group)>;
  /// One queue's part in a group; given back by its destruction.
  using Share = std::shared_ptr<const OwnedFd>;

  /// A failed `remove` is logged: nobody could do anything about it.
  VfioGroups(Use add, Use remove) : add_(std::move(add)), remove_(std::move(remove)) {}
  VfioGroups(const VfioGroups&) = delete;
  VfioGroups& operator=(const VfioGroups&) = delete;

  /// A share of the group of which `group` is a descriptor, which stays the caller's. Errc::invalid_value: it is none;
  /// or the error of `add`.
  Result<Share> share(const OwnedFd& group);
  /// How many groups there are.
  std::size_t count() const { return groups_.size(); }

 private:
  void remove(std::uint64_t number, const OwnedFd& group);

  Use add_;
  Use remove_;
  std::map<std::uint64_t, std::weak_ptr<const OwnedFd>> groups_;
};

}  // namespace causeway::vdpa

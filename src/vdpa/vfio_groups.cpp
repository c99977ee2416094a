#include "vdpa/vfio_groups.h"

#include "base/log.h"

#include <sys/stat.h>

#include <utility>

namespace causeway::vdpa {

Result<std::uint64_t> number_of_group(const OwnedFd& group) {
  struct stat status{};
  if (::fstat(group.borrow(), &status) < 0) return fail(system_error("look at the descriptor of a VFIO group"));
  if (!S_ISCHR(status.st_mode)) return fail(Errc::invalid_value, "the descriptor is of no VFIO group");
  return status.st_rdev;
}

Result<VfioGroups::Share> VfioGroups::share(const OwnedFd& group) {
  CW_TRY(const std::uint64_t number, number_of_group(group));
  if (const auto known = groups_.find(number); known != groups_.end()) return known->second.lock();
  CW_TRY(auto own, group.duplicate());
  CW_CHECK(add_(own));
  Share share(new OwnedFd(std::move(own)), [this, number](const OwnedFd* last) {
    const std::unique_ptr<const OwnedFd> closes(last);
    remove(number, *last);
  });
  groups_.emplace(number, share);
  return share;
}

void VfioGroups::remove(std::uint64_t number, const OwnedFd& group) {
  groups_.erase(number);
  if (auto removed = remove_(group); !removed) log::warn("VFIO group: {}", removed.error().text());
}

}  // namespace causeway::vdpa

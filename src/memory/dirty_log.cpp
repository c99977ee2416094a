#include "memory/dirty_log.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::memory {

Result<std::shared_ptr<const DirtyLog>> DirtyLog::map(const OwnedFd& file, std::uint64_t offset, std::uint64_t size) {
  auto mapping = Mapping::map(file, offset, size);
  if (!mapping) {
    return fail(Errc::peer_violation,
                fmt::format("a log of {} bytes at offset {}: {}", size, offset, mapping.error().text()));
  }
  return std::shared_ptr<const DirtyLog>(new DirtyLog(std::move(*mapping), nullptr));
}

std::shared_ptr<const DirtyLog> DirtyLog::with_event(std::shared_ptr<const EventFd> changed) const {
  return std::shared_ptr<const DirtyLog>(new DirtyLog(mapping_, std::move(changed)));
}

DirtyLog::DirtyLog(std::shared_ptr<const Mapping> mapping, std::shared_ptr<const EventFd> changed)
    : mapping_(std::move(mapping)),
      bits_(GuestSpan::over({mapping_->data(), mapping_->size()})),
      changed_(std::move(changed)) {}

bool DirtyLog::covers(const MemoryMap& map) const {
  return std::ranges::all_of(map.regions(), [this](const Region& region) {
    return (region.iova.value() + (region.size - 1)) / kPage / 8 < bits_.size();
  });
}

void DirtyLog::mark_slowly(Iova at, std::uint64_t bytes) const {
  if (bytes == 0) return;
  const std::uint64_t last = (at.value() + (bytes - 1)) / kPage;
  for (std::uint64_t page = at.value() / kPage; page <= last;) {
    if (page / 8 >= bits_.size()) return;
    const std::uint64_t end = std::min(last, page / 8 * 8 + 7);
    mark_in_byte(page, end);
    page = end + 1;
  }
}

}  // namespace causeway::memory

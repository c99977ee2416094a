// Doorbells and VFIO groups of a back-end, which its messages bring and which a Port may pass on.
#include "vdpa/vfio_groups.h"
#include "vhost_user/frontend.h"

#include <fmt/format.h>

#include <unistd.h>

#include <utility>

namespace causeway::vhost_user {
namespace {

Result<void> check_area(const DoorbellArea& area) {
  static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  if (area.size == 0 || area.size % page != 0 || area.offset % page != 0) {
    return fail(Errc::invalid_value,
                fmt::format("{:#x} bytes at offset {:#x} are not whole pages", area.size, area.offset));
  }
  if (area.size <= ~std::uint64_t{0} - area.offset) return {};
  return fail(Errc::invalid_value, fmt::format("{:#x} bytes at offset {:#x} wrap", area.size, area.offset));
}

Result<void> check_offer(const BackendMessage& message) {
  if (message.area) return check_area(*message.area);
  CW_TRY([[maybe_unused]] const auto number, vdpa::number_of_group(*message.group));
  return {};
}

}  // namespace

Result<void> Frontend::check(const BackendMessage& message) const {
  const auto about = fmt::format("{}: queue {}", spec_of(message.request).name, virtio::number(message.queue));
  if (virtio::number(message.queue) >= info_.queues) {
    return fail(Errc::invalid_value, fmt::format("{}: there are {}", about, info_.queues));
  }
  if (!message.area && !message.group) return {};
  if (!queues_.contains(message.queue)) return fail(Errc::invalid_value, about + ": it does not run");
  auto good = check_offer(message);
  return good ? good : fail(std::move(good).error().context(about));
}

void Frontend::set_doorbell(QueueIndex index, Queue& queue, std::optional<DoorbellArea> area) {
  if (!queue.doorbell && !area) return;
  queue.doorbell = std::move(area);
  if (observer_ != nullptr) observer_->notify_area_changed(index);
}

void Frontend::set_vfio_group(QueueIndex index, Queue& queue, std::shared_ptr<const OwnedFd> group) {
  if (!queue.group && !group) return;
  queue.group = std::move(group);
  if (observer_ != nullptr) observer_->vfio_group_changed(index);
}

const OwnedFd* Frontend::vfio_group(QueueIndex index) const {
  const auto found = queues_.find(index);
  return found == queues_.end() ? nullptr : found->second.group.get();
}

std::optional<vdpa::NotifyArea> Frontend::notify_area(QueueIndex index) const {
  const auto found = queues_.find(index);
  if (found == queues_.end() || !found->second.doorbell) return std::nullopt;
  const DoorbellArea& area = *found->second.doorbell;
  return vdpa::NotifyArea{.fd = *area.fd, .offset = area.offset, .size = area.size};
}

}  // namespace causeway::vhost_user

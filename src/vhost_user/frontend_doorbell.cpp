// Doorbells of a back-end, which its messages bring and which a Port may pass on.
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

}  // namespace

Result<void> Frontend::check(const BackendMessage& message) const {
  if (message.request != BackendRequest::vring_host_notifier_msg) return {};
  const MessageSpec& spec = spec_of(message.request);
  const auto about = fmt::format("{}: queue {}", spec.name, virtio::number(message.queue));
  if (virtio::number(message.queue) >= info_.queues) {
    return fail(Errc::invalid_value, fmt::format("{}: there are {}", about, info_.queues));
  }
  if (const auto missing = spec.needs.minus(protocol_features()); !missing.is_empty()) {
    return fail(Errc::not_supported, fmt::format("{}: needs protocol feature {}", about, text(missing)));
  }
  if (!message.area) return {};
  if (!queues_.contains(message.queue)) return fail(Errc::invalid_value, about + ": it does not run");
  auto good = check_area(*message.area);
  return good ? good : fail(std::move(good).error().context(about));
}

void Frontend::set_doorbell(QueueIndex index, Queue& queue, std::optional<DoorbellArea> area) {
  if (!queue.doorbell && !area) return;
  queue.doorbell = std::move(area);
  if (observer_ != nullptr) observer_->notify_area_changed(index);
}

std::optional<vdpa::NotifyArea> Frontend::notify_area(QueueIndex index) const {
  const auto found = queues_.find(index);
  if (found == queues_.end() || !found->second.doorbell) return std::nullopt;
  const DoorbellArea& area = *found->second.doorbell;
  return vdpa::NotifyArea{.fd = *area.fd, .offset = area.offset, .size = area.size};
}

}  // namespace causeway::vhost_user

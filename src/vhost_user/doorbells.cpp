#include "vhost_user/doorbells.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::vhost_user {
namespace {

using port::Doorbell;

BackendMessage withdrawal(QueueIndex queue) {
  return {.request = BackendRequest::vring_host_notifier_msg, .queue = queue};
}

}  // namespace

void Doorbells::offer(QueueIndex queue, const vdpa::NotifyArea& area) {
  Bell& bell = bells_[queue];
  bell.refusals = 0;
  auto fd = area.fd.duplicate();
  if (!fd) {
    log_.warn(fmt::format("queue {}: its doorbell is not offered: {}", virtio::number(queue), fd.error().text()));
    return;
  }
  bell.area =
      DoorbellArea{.fd = std::make_shared<const OwnedFd>(std::move(*fd)), .offset = area.offset, .size = area.size};
  send(queue, bell);
}

void Doorbells::send(QueueIndex queue, Bell& bell) {
  bell.retry.reset();
  BackendChannel* const channel = channel_();
  if (channel == nullptr) return;
  bell.state = Doorbell::offered;
  bell.is_told = true;
  bell.is_withdrawal_due = false;  // a new one replaces what is there
  channel->send({.request = BackendRequest::vring_host_notifier_msg, .queue = queue, .area = bell.area});
}

void Doorbells::withdraw(QueueIndex queue) {
  Bell& bell = bells_[queue];
  bell.area.reset();
  bell.retry.reset();
  const auto before = std::exchange(bell.state, Doorbell::none);
  BackendChannel* const channel = channel_();
  if (channel == nullptr || channel->cancel_offer(BackendRequest::vring_host_notifier_msg, queue)) return;
  if (before == Doorbell::offered || before == Doorbell::accepted) channel->send(withdrawal(queue));
}

void Doorbells::forget(QueueIndex queue) {
  if (BackendChannel* const channel = channel_()) channel->drop(queue);
  bells_.erase(queue);
}

void Doorbells::forget_all() {
  while (!bells_.empty()) forget(bells_.begin()->first);
}

Doorbell Doorbells::state(QueueIndex queue) const {
  const auto found = bells_.find(queue);
  return found == bells_.end() ? Doorbell::none : found->second.state;
}

void Doorbells::on_answer(const BackendMessage& message, bool accepted) {
  const QueueIndex queue = message.queue;
  Bell& bell = bells_[queue];
  if (!message.area) {
    if (!accepted && !port_.is_suspended()) {
      log_.warn(fmt::format("queue {}: the front-end refuses to let go of its doorbell", virtio::number(queue)));
    }
    if (!bell.area) bell.is_told = false;
    port_.nudge(queue);
  } else if (bell.area != message.area) {
    if (accepted) take_back(queue, bell);
  } else if (accepted) {
    bell.state = Doorbell::accepted;
    port_.nudge(queue);
  } else {
    on_refusal(queue, bell);
  }
}

void Doorbells::on_refusal(QueueIndex queue, Bell& bell) {
  bell.state = Doorbell::refused;
  bell.is_told = false;
  if (++bell.refusals < kMostOffers) {
    const auto delay = kFirstRetry * (1 << (bell.refusals - 1));
    bell.retry.emplace(loop_.after(delay, [this, queue] { send(queue, bells_[queue]); }));
    return;
  }
  log_.info(
      fmt::format("queue {}: the front-end does not map its doorbell; kicks go on by eventfd", virtio::number(queue)));
}

/// The front-end has taken what was on offer no longer, and what it has let go of before that.
void Doorbells::take_back(QueueIndex queue, Bell& bell) {
  BackendChannel* const channel = channel_();
  if (channel == nullptr || channel->has_waiting_doorbell(queue)) return;
  bell.is_told = true;
  bell.is_withdrawal_due = true;
  send_due();
}

void Doorbells::send_due() {
  BackendChannel* const channel = channel_();
  if (channel == nullptr || port_.is_suspended()) return;
  for (auto& [queue, bell] : bells_) {
    if (std::exchange(bell.is_withdrawal_due, false)) channel->send(withdrawal(queue));
  }
}

void Doorbells::offer_again() {
  for (auto& [queue, bell] : bells_) {
    bell.refusals = 0;
    if (bell.area) send(queue, bell);
  }
}

void Doorbells::freeze() {
  for (auto& [queue, bell] : bells_) bell.retry.reset();
}

void Doorbells::thaw() {
  for (auto& [queue, bell] : bells_) {
    if (bell.area && bell.state == Doorbell::refused && bell.refusals < kMostOffers) send(queue, bell);
  }
}

BackendChannel::Told Doorbells::told() const {
  BackendChannel::Told told;
  for (const auto& [queue, bell] : bells_) {
    if (bell.is_told) told.emplace(BackendRequest::vring_host_notifier_msg, queue);
  }
  return told;
}

}  // namespace causeway::vhost_user

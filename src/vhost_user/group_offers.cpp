#include "vhost_user/group_offers.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::vhost_user {
namespace {

constexpr auto kRequest = BackendRequest::vring_vfio_group_msg;

}  // namespace

void GroupOffers::offer(QueueIndex queue, const OwnedFd& group) {
  if (!is_configured_) return;
  auto own = group.duplicate();
  if (!own) {
    log_.warn(fmt::format("queue {}: its VFIO group is not offered: {}", virtio::number(queue), own.error().text()));
    return;
  }
  Offer offer{.group = std::make_shared<const OwnedFd>(std::move(*own)), .is_told = false};
  send(queue, offers_.insert_or_assign(queue, std::move(offer)).first->second);
}

void GroupOffers::send(QueueIndex queue, Offer& offer) {
  BackendChannel* const channel = channel_();
  if (channel == nullptr) return;
  offer.is_told = true;
  channel->send({.request = kRequest, .queue = queue, .group = offer.group});
}

void GroupOffers::withdraw(QueueIndex queue) {
  const auto offer = offers_.extract(queue);
  BackendChannel* const channel = channel_();
  if (offer.empty() || channel == nullptr || channel->cancel_offer(kRequest, queue)) return;
  if (offer.mapped().is_told) channel->send({.request = kRequest, .queue = queue});
}

void GroupOffers::forget(QueueIndex queue) {
  if (BackendChannel* const channel = channel_()) channel->drop(queue);
  offers_.erase(queue);
}

void GroupOffers::forget_all() {
  while (!offers_.empty()) forget(offers_.begin()->first);
}

void GroupOffers::offer_again() {
  for (auto& [queue, offer] : offers_) send(queue, offer);
}

BackendChannel::Told GroupOffers::told() const {
  BackendChannel::Told told;
  for (const auto& [queue, offer] : offers_) {
    if (offer.is_told) told.emplace(kRequest, queue);
  }
  return told;
}

}  // namespace causeway::vhost_user

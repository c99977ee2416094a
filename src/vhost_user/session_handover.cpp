// A session that goes to another process, with all that the front-end has said.
#include "vhost_user/session.h"

#include <utility>

namespace causeway::vhost_user {
void Session::hand_over(ParcelWriter& parcel) const {
  parcel.number(protocol_.bits());
  parcel.flag(layout_ == virtio::Layout::packed);
  parcel.flag(rings_start_enabled_);
  parcel.flag(config_change_due_);
  parcel.number(static_cast<std::uint32_t>(rings_.size()));
  for (const auto& [queue, memo] : rings_) {
    parcel.number(virtio::number(queue));
    parcel.flag(memo.has_call);
    parcel.flag(memo.has_err);
    parcel.flag(memo.enabled);
    write_event(parcel, memo.call);
    write_event(parcel, memo.err);
  }
  parcel.flag(channel_ && channel_->is_open());
  if (channel_ && channel_->is_open()) {
    BackendChannel::Told told = groups_.told();
    told.merge(doorbells_.told());
    channel_->hand_over(parcel, std::move(told));
  }
  parcel.number(static_cast<std::uint32_t>(inband_.size()));
  for (const auto& [queue, inband] : inband_) {
    parcel.number(virtio::number(queue));
    write_event(parcel, std::optional(inband.kick));
    write_event(parcel, std::optional(inband.call));
    write_event(parcel, std::optional(inband.err));
  }
}

Result<std::unique_ptr<Session>> Session::take_over(Loop& loop, port::Port& port, PortLog& log, SessionOptions options,
                                                    std::function<void()> on_memory_lost, ParcelReader& parcel) {
  CW_TRY(auto session, open(loop, port, log, options, std::move(on_memory_lost)));
  CW_CHECK(session->read_state(parcel));
  return session;
}

Result<void> Session::read_state(ParcelReader& parcel) {
  protocol_ = ProtocolFeatures(parcel.number<std::uint64_t>());
  layout_ = parcel.flag() ? virtio::Layout::packed : virtio::Layout::split;
  rings_start_enabled_ = parcel.flag();
  config_change_due_ = parcel.flag();
  const auto rings = parcel.count(sizeof(std::uint16_t));
  for (std::uint32_t i = 0; i < rings; ++i) {
    RingMemo& memo = rings_[QueueIndex{parcel.number<std::uint16_t>()}];
    memo.has_call = parcel.flag();
    memo.has_err = parcel.flag();
    memo.enabled = parcel.flag();
    CW_TRY(memo.call, read_event<CallFd>(parcel));
    CW_TRY(memo.err, read_event<ErrFd>(parcel));
  }
  if (parcel.flag()) {
    CW_TRY(channel_, BackendChannel::take_over(loop_, log_, on_doorbell(), parcel));
  }
  const auto inband = parcel.count(sizeof(std::uint16_t));
  for (std::uint32_t i = 0; i < inband; ++i) {
    const QueueIndex queue{parcel.number<std::uint16_t>()};
    CW_TRY(auto kick, read_event<KickFd>(parcel));
    CW_TRY(auto call, read_event<CallFd>(parcel));
    CW_TRY(auto err, read_event<ErrFd>(parcel));
    if (!kick || !call || !err) return fail(Errc::peer_violation, "a queue kicked by messages without its eventfds");
    inband_.insert_or_assign(queue, InbandQueue(std::move(*kick), std::move(*call), std::move(*err)));
  }
  freeze();
  return parcel.has_failed() ? parcel.finish() : Result<void>();
}

void Session::freeze() {
  for (auto& [queue, inband] : inband_) inband.unwatch();
  if (channel_) channel_->freeze();
  doorbells_.freeze();
}

void Session::thaw() {
  if (!channel_) return;
  channel_->thaw();
  doorbells_.thaw();
  for (auto& [queue, inband] : inband_) inband.watch(loop_, *channel_, queue);
  send_due_config_change();
}

}  // namespace causeway::vhost_user

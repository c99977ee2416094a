// The rings: set-up, start at SET_VRING_KICK (or in-band VRING_KICK), stop at GET_VRING_BASE. Started and enabled are
// two things; the Port keeps both. Spec: "Ring states".
#include "vhost_user/ring_position.h"
#include "vhost_user/session.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::vhost_user {

Result<Answer> Session::on(const SetVringNum& message) {
  CW_CHECK(port_.set_queue_size(message.queue, message.entries));
  return Done{};
}

Result<Answer> Session::on(const SetVringAddr& message) {
  // VHOST_VRING_F_LOG: with LOG_ALL the rings are logged too, at their guest addresses. QEMU names for a packed ring an
  // address at which no used descriptor lies.
  if (message.log_used && !logs_all_) {
    return fail(Errc::peer_violation,
                fmt::format("queue {}: its log is asked for without LOG_ALL", virtio::number(message.queue)));
  }
  CW_CHECK(port_.set_queue_addresses(message.queue, {.kind = address_kind(message),
                                                     .descriptors = message.descriptors,
                                                     .available = message.available,
                                                     .used = message.used}));
  return Done{};
}

port::RingAddressKind Session::address_kind(const SetVringAddr& message) {
  using enum port::RingAddressKind;
  if (port_.is_translated()) return guest;
  if (!protocol_.has(ProtocolFeature::gpa_addresses)) return frontend;
  // Front-ends built on rust-vmm's vhost before 0.17 take this bit for SHMEM and go on sending their own addresses.
  // Those lie in no guest region, so that they can be told apart without doubt.
  const memory::MemoryMap& map = port_.memory();
  if (map.translate(memory::Iova(message.descriptors), 1)) return guest;
  if (!map.iova_of(memory::FrontendVa(message.descriptors))) return guest;
  log_.warn(
      fmt::format("SET_VRING_ADDR: queue {}: GPA_ADDRESSES is negotiated, yet {:#x} is a front-end address; "
                  "taken as that (fixed in rust-vmm vhost 0.17)",
                  virtio::number(message.queue), message.descriptors));
  return frontend;
}

Result<Answer> Session::on(const SetVringBase& message) {
  auto position = decode_position(layout_, message.position);
  if (!position)
    return fail(std::move(position).error().context(fmt::format("queue {}", virtio::number(message.queue))));
  CW_CHECK(port_.set_queue_base(message.queue, *std::move(position)));
  return Done{};
}

Result<Answer> Session::on(const GetVringBase& message) {
  return end_ring(message.queue, stop_mode());
}

vdpa::StopMode Session::stop_mode() const {
  // Requests may be left to the next back-end only when the front-end keeps the record of them. With SKIP_DRAIN it says
  // each time what it wants, and this is the message that drains.
  const bool leaves = protocol_.has(ProtocolFeature::get_vring_base_inflight) &&
                      !protocol_.has(ProtocolFeature::get_vring_base_skip_drain) && port_.has_inflight();
  return leaves ? vdpa::StopMode::leave : vdpa::StopMode::drain;
}

Result<Answer> Session::end_ring(QueueIndex queue, vdpa::StopMode mode) {
  forget_offers(queue);
  CW_TRY(const auto state, port_.stop_queue(queue, mode));
  inband_.erase(queue);
  if (channel_) channel_->drop(queue);
  return VringBaseAnswer{.queue = queue, .position = encode_position(layout_, state)};
}

Result<Answer> Session::on(SetVringKick message) {
  CW_CHECK(start_ring(message.queue, std::move(message.kick)));
  return Done{};
}

Result<Answer> Session::on(SetVringCall message) {
  CW_CHECK(port_.set_queue_call(message.queue, message.call));
  RingMemo& memo = rings_[message.queue];
  memo.has_call = true;
  memo.call = std::move(message.call);
  return Done{};
}

Result<Answer> Session::on(SetVringErr message) {
  CW_CHECK(port_.set_queue_err(message.queue, message.err));
  RingMemo& memo = rings_[message.queue];
  memo.has_err = true;
  memo.err = std::move(message.err);
  return Done{};
}

Result<Answer> Session::on(const SetVringEnable& message) {
  CW_CHECK(port_.enable_queue(message.queue, message.enabled));
  rings_[message.queue].enabled = message.enabled;
  return Done{};
}

Result<Answer> Session::on(const VringKick& message) {
  if (const auto running = inband_.find(message.queue); running != inband_.end()) {
    running->second.kick.signal();
    return Done{};
  }
  CW_TRY(auto kick, KickFd::make());
  CW_CHECK(start_ring(message.queue, std::move(kick)));
  return Done{};
}

Result<void> Session::start_ring(QueueIndex queue, std::optional<KickFd> kick) {
  if (is_inband()) {
    // A ring that is polled needs no kick, but VRING_KICK may still come: it then signals a descriptor nobody reads.
    CW_TRY(auto inband, InbandQueue::make(kick));
    const RingMemo& memo = rings_[queue];
    if (!memo.has_call) CW_CHECK(port_.set_queue_call(queue, inband.call));
    if (!memo.has_err) CW_CHECK(port_.set_queue_err(queue, inband.err));
    CW_CHECK(port_.start_queue(queue, std::move(kick)));
    if (channel_) inband.watch(loop_, *channel_, queue);
    inband_.insert_or_assign(queue, std::move(inband));
  } else {
    CW_CHECK(port_.start_queue(queue, std::move(kick)));
  }
  send_due_config_change();
  doorbells_.send_due();
  return {};
}

Result<void> Session::restore_rings() {
  inband_.clear();
  for (const auto& [queue, memo] : rings_) {
    if (channel_) channel_->drop(queue);
    CW_CHECK(port_.set_queue_call(queue, memo.call));
    CW_CHECK(port_.set_queue_err(queue, memo.err));
    CW_CHECK(port_.enable_queue(queue, memo.enabled));
  }
  return {};
}

}  // namespace causeway::vhost_user

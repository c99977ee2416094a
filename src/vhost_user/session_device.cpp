// The device as a whole: configuration space, status, reset, MTU, announcement, the back-end channel.
#include "vhost_user/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::vhost_user {

Result<Answer> Session::on(const GetConfig& message) {
  ConfigAnswer answer{.offset = message.offset, .flags = message.flags, .bytes = Bytes(message.size)};
  CW_CHECK(port_.read_config(message.offset, answer.bytes));
  return answer;
}

Result<Answer> Session::on(const SetConfig& message) {
  if (message.is_migration) {
    // A migrated device is told fields that the driver may not write. What is as told already needs no write.
    Bytes current(message.bytes.size());
    CW_CHECK(port_.read_config(message.offset, current));
    if (current == message.bytes) return Done{};
  }
  CW_CHECK(port_.write_config(message.offset, message.bytes));
  return Done{};
}

Result<Answer> Session::on(const SetStatus& message) {
  const auto status = static_cast<vdpa::Status>(message.status);
  if (status != vdpa::Status::reset) {
    CW_CHECK(port_.set_status(status));
    return Done{};
  }
  forget_all_offers();
  // QEMU before 8.0 writes 0 at every stop, and only then asks where its rings have stopped: the positions must
  // survive.
  std::vector<vdpa::QueueState> positions;
  for (std::uint16_t i = 0; i < port_.queue_count(); ++i) {
    CW_TRY(auto state, port_.stop_queue(QueueIndex{i}, stop_mode()));
    positions.push_back(std::move(state));
  }
  remember_device_state();
  CW_CHECK(port_.set_status(status));
  for (std::uint16_t i = 0; i < positions.size(); ++i) CW_CHECK(port_.set_queue_base(QueueIndex{i}, positions[i]));
  CW_CHECK(restore_rings());
  return Done{};
}

Result<Answer> Session::on(const GetStatus&) {
  return U64Answer{static_cast<std::uint64_t>(port_.status())};
}

Result<Answer> Session::on(const ResetDevice&) {
  forget_all_offers();
  port_.reset();
  stopped_state_.reset();
  for (auto& [queue, memo] : rings_) memo.enabled = rings_start_enabled_;
  CW_CHECK(restore_rings());
  return Done{};
}

Result<Answer> Session::on(const NetSetMtu& message) {
  CW_CHECK(port_.set_mtu(message.mtu));
  return Done{};
}

Result<Answer> Session::on(const SendRarp& message) {
  CW_CHECK(port_.announce(message.mac));
  return Done{};
}

Result<Answer> Session::on(SetBackendReqFd message) {
  // In-band events watch the old channel; they end before it does.
  for (auto& [queue, inband] : inband_) inband.unwatch();
  channel_ = std::make_unique<BackendChannel>(loop_, log_, std::move(message.channel),
                                              protocol_.has(ProtocolFeature::reply_ack), on_doorbell());
  for (auto& [queue, inband] : inband_) inband.watch(loop_, *channel_, queue);
  doorbells_.offer_again();
  groups_.offer_again();
  return Done{};
}

void Session::forget_offers(QueueIndex queue) {
  doorbells_.forget(queue);
  groups_.forget(queue);
}

void Session::forget_all_offers() {
  doorbells_.forget_all();
  groups_.forget_all();
}

BackendChannel* Session::channel_for(BackendRequest request) const {
  if (!spec_of(request).needs.minus(protocol_).is_empty()) return nullptr;
  return channel_ && channel_->is_open() ? channel_.get() : nullptr;
}

BackendChannel* Session::doorbell_channel() const {
  // Before VERSION_1 a driver's kicks of all queues go to one register.
  if (!port_.features().has(virtio::Feature::version_1)) return nullptr;
  return channel_for(BackendRequest::vring_host_notifier_msg);
}

BackendChannel::OnDoorbell Session::on_doorbell() {
  return [this](const BackendMessage& message, bool accepted) { doorbells_.on_answer(message, accepted); };
}

}  // namespace causeway::vhost_user

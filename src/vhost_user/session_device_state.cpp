// What the driver has decided of its device, on its way to another host or from there.
// Spec: QEMU docs/interop/vhost-user.rst, "Migrating back-end state".
#include "vhost_user/session.h"
#include "vhost_user/wire.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::vhost_user {

Result<Answer> Session::on(SetDeviceStateFd message) {
  if (!port_.is_suspended()) return fail(Errc::peer_violation, "while rings run");
  if (transfer_ && transfer_->is_under_way()) {
    // Its end may wait in the channel unread.
    transfer_->go_on();
    if (transfer_->is_under_way()) return fail(Errc::busy, "a transfer of the device's state is under way already");
  }
  transfer_.reset();
  if (message.direction == StateDirection::save) {
    CW_TRY(auto state, device_state());
    CW_TRY(transfer_, StateTransfer::send(loop_, std::move(message.channel), std::move(state)));
  } else {
    CW_TRY(transfer_, StateTransfer::receive(loop_, std::move(message.channel), port::Port::kMaxDeviceState,
                                             [this](auto state) { return take_device_state(state); }));
  }
  return U64Answer{wire::kStateNoChannel};
}

/// The front-end asks when it has read all, or closed its end. All that there will be is then in the channel, so that
/// nobody has to wait: what is not at its end now has a front-end that breaks that rule.
Result<Answer> Session::on(const CheckDeviceState&) {
  if (!transfer_) return fail(Errc::peer_violation, "no device's state has been transferred");
  CW_CHECK(std::exchange(transfer_, nullptr)->finish());
  return Done{};
}

Result<Bytes> Session::device_state() const {
  if (stopped_state_ && port_.features() == virtio::FeatureSet()) return *stopped_state_;
  return port_.save_device_state();
}

Result<void> Session::take_device_state(std::span<const std::byte> state) {
  CW_CHECK(port_.load_device_state(state));
  layout_ = virtio::layout_of(port_.features());
  log_.info(fmt::format("device state loaded, {} bytes", state.size()));
  return {};
}

/// QEMU writes status 0 at every stop, also at that of a migration, and only then asks for the state.
void Session::remember_device_state() {
  if (!protocol_.has(ProtocolFeature::device_state) || port_.features() == virtio::FeatureSet()) return;
  stopped_state_.reset();
  if (auto state = port_.save_device_state()) stopped_state_ = std::move(*state);
}

}  // namespace causeway::vhost_user

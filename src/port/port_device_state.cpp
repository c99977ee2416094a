// What a driver has decided goes to a port elsewhere, or comes from there.

#include "port/device_state.h"
#include "port/port.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::port {

Result<std::vector<std::byte>> Port::save_device_state() const {
  if (!is_suspended()) return fail(Errc::peer_violation, "the device's state, while queues run");
  DeviceState state{.type = info().type,
                    .features = features_,
                    .control_queue = std::nullopt,
                    .commands = {},
                    .config = config_written_};
  if (const auto queue = slots_.back().device->control_queue(features_)) state.control_queue = number(*queue);
  for (const auto& [topic, command] : control_log_) state.commands.push_back(command);
  auto bytes = encode(state);
  if (bytes.size() <= kMaxDeviceState) return bytes;
  return fail(Errc::not_supported,
              fmt::format("the device's state has {} bytes, the longest is {}", bytes.size(), kMaxDeviceState));
}

Result<void> Port::load_device_state(std::span<const std::byte> bytes) {
  if (!is_suspended()) return fail(Errc::peer_violation, "a device's state, while queues run");
  auto state = decode_device_state(bytes);
  if (!state) return fail(std::move(state).error().context("the device's state is not used"));
  if (auto fits = check_fit(*state); !fits) {
    return fail(std::move(fits).error().context("the device's state is not used"));
  }
  // Whether a Device accepts a command only that Device can say, so it is asked; if it does not, all is put back.
  const FeatureSet features = features_;
  const auto control = control_log_;
  const auto config = config_written_;
  if (auto done = become(*state); !done) {
    config_written_ = config;
    if (auto back = begin_anew(features); !back) {
      log::error("port {}: a device's state was refused, and what was before cannot be put back: {}", name(),
                 back.error().text());
    }
    control_log_ = control;
    replay_control(slots_.size() - 1);
    return fail(std::move(done).error().context("the device's state is not used"));
  }
  // What the driver before had decided is no longer in force, should it have been this very one.
  if (former_) {
    former_->control.clear();
    former_->config.clear();
  }
  save();
  return {};
}

Result<void> Port::check_fit(const DeviceState& state) const {
  if (state.type != info().type) {
    return fail(Errc::not_supported, fmt::format("it is that of a device of type {}, the port is of type {}",
                                                 std::to_underlying(state.type), std::to_underlying(info().type)));
  }
  if (const auto missing = state.features.minus(offered_features()); missing != FeatureSet()) {
    return fail(Errc::not_supported,
                fmt::format("its driver uses {}, which the port does not offer", virtio::text(info().type, missing)));
  }
  if (features_ != FeatureSet() && features_ != state.features) {
    return fail(Errc::not_supported, fmt::format("its driver has negotiated {{{}}}, the one here {{{}}}",
                                                 virtio::text(info().type, state.features.minus(features_)),
                                                 virtio::text(info().type, features_.minus(state.features))));
  }
  const auto own = slots_.back().device->control_queue(state.features);
  if (state.control_queue != own.transform([](QueueIndex queue) { return number(queue); })) {
    return fail(Errc::not_supported,
                "its control queue has another number than the port's: the ports differ in queues");
  }
  if (!state.config.empty() && state.config.rbegin()->first >= info().config_size) {
    return fail(Errc::not_supported, fmt::format("its configuration space has at least {} bytes, the port's {}",
                                                 state.config.rbegin()->first + 1, info().config_size));
  }
  return {};
}

Result<void> Port::become(const DeviceState& state) {
  const bool is_new = features_ == state.features && control_log_.empty() && config_written_.empty();
  config_written_.clear();
  if (!is_new) CW_CHECK(begin_anew(state.features));
  control_log_.clear();
  for (const auto& command : state.commands) {
    const vdpa::ControlReply reply = fallback().device->control(command);
    // A query changes nothing, and a topic has one last command: a port saves neither.
    if (reply.ack != 0 || reply.is_query || control_log_.contains(reply.topic)) {
      return fail(Errc::peer_violation, fmt::format("device {} does not accept its control command of {} bytes",
                                                    info().name, command.size()));
    }
    // Other Devices hear of it when a queue is bound to them.
    if (!reply.is_default) control_log_[reply.topic] = command;
  }
  for (const auto& [offset, value] : state.config) {
    const std::span<const std::byte> byte(&value, 1);
    CW_CHECK(tell_all([&](vdpa::Device& device) { return device.write_config(offset, byte); }));
    config_written_[offset] = value;
  }
  return {};
}

/// All Devices are where they are after negotiation, with what the driver side has said; nobody has decided anything.
Result<void> Port::begin_anew(FeatureSet features) {
  reset_devices();
  if (features == FeatureSet()) {
    features_ = features;
    return {};
  }
  CW_CHECK(features == features_ ? tell_all_features(features) : set_features(features));
  return tell_all([this](vdpa::Device& device) { return repeat_settings(device); });
}

}  // namespace causeway::port

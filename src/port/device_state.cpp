#include "port/device_state.h"

#include "base/parcel.h"
#include "port/sealed.h"

#include <utility>

namespace causeway::port {
namespace {

constexpr std::uint32_t kFormat = 1;
constexpr Seal kSeal{
    .magic = 0x53445743, .first = kFormat, .last = kFormat, .name = "state of a device of ours"};  // "CWDS"

}  // namespace

std::vector<std::byte> encode(const DeviceState& state) {
  ParcelWriter body;
  body.number(static_cast<std::uint32_t>(std::to_underlying(state.type)));
  body.number(state.features.bits());
  body.flag(state.control_queue.has_value());
  if (state.control_queue) body.number(*state.control_queue);
  body.number(static_cast<std::uint32_t>(state.commands.size()));
  for (const auto& command : state.commands) body.bytes(command);
  body.number(static_cast<std::uint32_t>(state.config.size()));
  for (const auto& [offset, value] : state.config) {
    body.number(offset);
    body.number(std::to_integer<std::uint8_t>(value));
  }
  return seal(kSeal, kFormat, body.contents());
}

Result<DeviceState> decode_device_state(std::span<const std::byte> bytes) {
  CW_TRY(const auto sealed, unseal(kSeal, bytes));
  ParcelReader from(Parcel{.bytes = {sealed.body.begin(), sealed.body.end()}, .fds = {}});
  DeviceState state;
  state.type = static_cast<virtio::DeviceType>(from.number<std::uint32_t>());
  state.features = virtio::FeatureSet(from.number<std::uint64_t>());
  if (from.flag()) state.control_queue = from.number<std::uint16_t>();
  const auto commands = from.count(sizeof(std::uint32_t));
  for (std::uint32_t i = 0; i < commands && !from.has_failed(); ++i) state.commands.push_back(from.bytes());
  const auto written = from.count(sizeof(std::uint32_t) + 1);
  for (std::uint32_t i = 0; i < written && !from.has_failed(); ++i) {
    const auto offset = from.number<std::uint32_t>();
    const std::byte value{from.number<std::uint8_t>()};
    if (!state.config.empty() && offset <= state.config.rbegin()->first) from.refuse("entries out of order");
    state.config.insert_or_assign(offset, value);
  }
  if (auto whole = from.finish(); !whole) return fail(std::move(whole).error().context("it contradicts itself"));
  return state;
}

}  // namespace causeway::port

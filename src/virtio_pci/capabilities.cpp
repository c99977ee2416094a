#include "virtio_pci/capabilities.h"

#include <fmt/format.h>

#include <cstring>

namespace causeway::virtio_pci {
namespace {

/// The lowest bits of a pointer to a capability are reserved (PCI 3.0 6.7).
constexpr std::uint8_t kPointerMask = 0xfc;

template <class T>
bool fetch(std::span<const std::byte> from, std::size_t at, T& to) {
  if (at > from.size() || sizeof to > from.size() - at) return false;
  std::memcpy(&to, from.data() + at, sizeof to);
  return true;
}

Result<virtio::DeviceType> type_of(std::span<const std::byte> space) {
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  if (!fetch(space, kVendorId, vendor) || !fetch(space, kDeviceId, device) || vendor != kVirtioVendor) {
    return fail(Errc::not_supported, fmt::format("PCI id {:04x}:{:04x} is no virtio function", vendor, device));
  }
  using enum virtio::DeviceType;
  if (device == kTransitionalNet || device == kModernDevice + std::to_underlying(net)) return net;
  if (device == kTransitionalBlock || device == kModernDevice + std::to_underlying(block)) return block;
  return fail(Errc::not_supported,
              fmt::format("PCI id {:04x}:{:04x} is neither a network nor a block device", vendor, device));
}

/// The range, when it is inside its BAR and at least `least` bytes long.
std::optional<Place> place(const vfio::BusInfo& bus, std::uint8_t bar, std::uint64_t offset, std::uint64_t bytes,
                           std::uint64_t least) {
  if (bar > 5) return std::nullopt;
  const auto region = static_cast<vfio::RegionIndex>(bar);
  const std::uint64_t whole = bus.region(region).size;
  if (offset > whole || bytes > whole - offset || bytes < least) return std::nullopt;
  return Place{.bar = region, .offset = offset, .bytes = bytes};
}

/// What has been found so far.
struct Found {
  std::optional<Place> common;
  std::optional<Place> notify;
  std::uint32_t multiplier = 0;
  std::optional<Place> device;
  std::optional<Place> ring_state;

  void take(std::span<const std::byte> space, std::size_t at, const vfio::BusInfo& bus) {
    VirtioCap cap{};
    if (!fetch(space, at, cap)) return;
    switch (static_cast<CfgType>(cap.cfg_type)) {
      case CfgType::common:
        // Functions of virtio 1.0 and 1.1 end before queue_notify_config_data.
        if (!common) common = place(bus, cap.bar, cap.offset, cap.bytes, offsetof(CommonCfg, queue_notify_config_data));
        break;
      case CfgType::notify:
        if (NotifyCap full{}; !notify && fetch(space, at, full)) {
          notify = place(bus, cap.bar, cap.offset, cap.bytes, 2);
          multiplier = full.multiplier;
        }
        break;
      case CfgType::device:
        if (!device) device = place(bus, cap.bar, cap.offset, cap.bytes, 4);
        break;
      case CfgType::vendor:
        if (RingStateCap ours{}; !ring_state && fetch(space, at, ours) && ours.vendor_id == kVirtioVendor &&
                                 ours.magic == kRingStateMagic && ours.version == kRingStateVersion) {
          ring_state = place(bus, ours.bar, ours.offset, sizeof(RingStateCfg), 1);
        }
        break;
      default:
        break;
    }
  }
};

}  // namespace

Result<FunctionLayout> parse_config_space(std::span<const std::byte> space, const vfio::BusInfo& bus) {
  CW_TRY(const auto type, type_of(space));
  Found found;
  std::uint8_t at = 0;
  std::uint8_t id = 0;
  if (!fetch(space, kCapabilities, at)) return fail(Errc::peer_violation, "configuration space is cut off");
  at &= kPointerMask;
  // 48 capabilities fill the space; a list that is longer goes in a circle.
  for (int count = 0; at != 0; ++count) {
    std::uint8_t next = 0;
    if (count == 48) return fail(Errc::peer_violation, "the list of capabilities goes in a circle");
    if (!fetch(space, at, id) || !fetch(space, at + 1U, next)) {
      return fail(Errc::peer_violation, fmt::format("a capability at {:#x} is cut off", at));
    }
    if (id == kCapVendor) found.take(space, at, bus);
    at = next & kPointerMask;
  }
  if (!found.common) return fail(Errc::not_supported, "it has no common configuration: no modern virtio function");
  if (!found.notify) return fail(Errc::not_supported, "it has no notification area");
  return FunctionLayout{.type = type,
                        .common = *found.common,
                        .notify = *found.notify,
                        .multiplier = found.multiplier,
                        .device = found.device,
                        .ring_state = found.ring_state};
}

}  // namespace causeway::virtio_pci

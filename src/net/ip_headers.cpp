#include "net/ip_headers.h"

namespace causeway::net {
namespace {

constexpr std::uint16_t kEtherTypeServiceVlan = 0x88a8;
constexpr int kMaxVlanTags = 2;

}  // namespace

std::optional<Network> find_network(std::span<const std::byte> frame) {
  std::size_t at = 12;
  for (int tags = 0; tags <= kMaxVlanTags; ++tags, at += 4) {
    if (frame.size() < at + 2) return std::nullopt;
    switch (be16(frame, at)) {
      case kEtherTypeIpv4:
        return Network{.is_ipv6 = false, .at = at + 2};
      case kEtherTypeIpv6:
        return Network{.is_ipv6 = true, .at = at + 2};
      case kEtherTypeVlan:
      case kEtherTypeServiceVlan:
        break;
      default:
        return std::nullopt;
    }
  }
  return std::nullopt;
}

}  // namespace causeway::net

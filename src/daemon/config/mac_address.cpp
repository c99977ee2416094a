#include "daemon/config/mac_address.h"

namespace causeway::config {

net::MacAddress mac_from_name(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char character : name) {
    hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001b3;
  }
  net::MacAddress mac;
  for (auto& byte : mac.bytes) {
    byte = static_cast<std::uint8_t>(hash);
    hash >>= 8;
  }
  constexpr unsigned kGroup = 1;
  constexpr unsigned kLocal = 2;
  mac.bytes[0] = static_cast<std::uint8_t>((mac.bytes[0] & ~kGroup) | kLocal);
  return mac;
}

}  // namespace causeway::config

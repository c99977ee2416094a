#include "net/ethernet.h"

#include <fmt/format.h>

#include <charconv>

namespace causeway::net {

std::optional<MacAddress> MacAddress::parse(std::string_view text) {
  MacAddress address;
  if (text.size() != 17) return std::nullopt;
  for (std::size_t i = 0; i < address.bytes.size(); ++i) {
    const auto part = text.substr(3 * i, 2);
    const auto result = std::from_chars(part.data(), part.data() + 2, address.bytes[i], 16);
    if (result.ec != std::errc() || result.ptr != part.data() + 2) return std::nullopt;
    if (i < 5 && text[3 * i + 2] != ':') return std::nullopt;
  }
  return address;
}

std::string MacAddress::text() const {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4],
                     bytes[5]);
}

}  // namespace causeway::net

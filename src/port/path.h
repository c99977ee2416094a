// By which way a Device works a queue.
#pragma once

#include <cstdint>
#include <string_view>

namespace causeway::port {

/// Value type.
enum class Path : std::uint8_t {
  direct,  ///< the Device touches the guest's ring itself
  relay,   ///< it works a ring of ours, between which and the guest's a worker passes chains
};
std::string_view name_of(Path path);

}  // namespace causeway::port

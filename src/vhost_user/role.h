// Who waits at a socket's path and who comes.
#pragma once

#include <cstdint>
#include <string_view>

namespace causeway::vhost_user {

/// Who waits at the socket's path.
enum class Role : std::uint8_t {
  listen,   ///< we do; the other side connects
  connect,  ///< the other side does; we connect, and again whenever the connection ends
};
constexpr std::string_view name_of(Role role) {
  return role == Role::listen ? "listen" : "connect";
}

}  // namespace causeway::vhost_user

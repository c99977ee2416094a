// What the parts of the graph call things: descriptors on the shelf, and a configuration's words in those of the
// modules.
#pragma once

#include "daemon/config/config.h"
#include "daemon/disks.h"
#include "vhost_user/backend.h"

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace causeway::daemon {

inline constexpr std::string_view kStateLock = "state-lock";
inline constexpr std::string_view kControlListener = "control";

inline std::string tap_queue_name(const std::string& tap, std::uint16_t queue) {
  return fmt::format("tap:{}:{}", tap, queue);
}

inline std::string disk_name(const config::PortConfig& port) {
  return fmt::format("disk:{}:{}", port.name, Disks::store_name(*port.disk));
}

inline vhost_user::Role role_of(config::Role role) {
  return role == config::Role::server ? vhost_user::Role::listen : vhost_user::Role::connect;
}

inline vhost_user::BackendConfig backend_config(const config::PortConfig& config) {
  return {.path = config.socket,
          .role = role_of(config.role),
          .options = {.inband_notifications = config.inband_notifications,
                      .vfio_groups = config.vfio_groups,
                      .postcopy = config.postcopy}};
}

}  // namespace causeway::daemon

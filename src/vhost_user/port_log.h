// Log lines about one port's connection, limited in rate so that no front-end can flood the log. Every line names the
// port.
#pragma once

#include "base/log.h"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace causeway::vhost_user {

/// Lives as long as the port's server, so that the limit spans reconnections. Thread: control.
class PortLog {
 public:
  explicit PortLog(std::string port) : port_(std::move(port)) {}

  void info(std::string_view text) {
    if (limit_.allow()) log::info("port {}: {}{}", port_, text, held_back());
  }
  void warn(std::string_view text) {
    if (limit_.allow()) log::warn("port {}: {}{}", port_, text, held_back());
  }

 private:
  std::string held_back() {
    const auto count = limit_.take_suppressed();
    return count == 0 ? std::string() : fmt::format(" ({} earlier lines held back)", count);
  }

  std::string port_;
  log::RateLimit limit_;
};

}  // namespace causeway::vhost_user

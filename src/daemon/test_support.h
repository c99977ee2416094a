// A daemon's object graph in a test: made from a configuration, sockets in a directory of its own.
#pragma once

#include "base/loop.h"
#include "daemon/config/config.h"
#include "daemon/graph.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "support/temporary_directory.h"

namespace causeway::daemon::testing {

using causeway::testing::TemporaryDirectory;

/// Two ports: net0 with two queue pairs and two Devices on switch sw0, net1 reflecting on a second worker.
inline std::string two_ports(const std::filesystem::path& directory) {
  return fmt::format(R"(
[daemon]
control = "{0}/control.sock"
[[worker]]
name = "w0"
[[worker]]
name = "w1"
polling = "sleep"
[[switch]]
name = "sw0"
[[port]]
name = "net0"
socket = "{0}/net0.sock"
queue-pairs = 2
mac = "52:54:00:00:00:01"
mtu = 9000
connection = "switch:sw0"
devices = ["a", "b"]
features-off = ["event_idx"]
[[port]]
name = "net1"
socket = "{0}/net1.sock"
connection = "reflect"
worker = "w1"
)",
                     directory.string());
}

/// Keeps nothing, unless the text has a [daemon].
inline config::Config parsed(const std::string& text) {
  auto config = config::parse_config(text, "test.toml");
  EXPECT_TRUE(config.has_value()) << config.error().text();
  if (!config) return {};
  if (!text.contains("[daemon]")) config->daemon.state.clear();
  return *config;
}

}  // namespace causeway::daemon::testing

#include "daemon/config/mac_address.h"
#include "daemon/config/parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <filesystem>
#include <utility>

namespace causeway::config {
namespace {

constexpr Choice<virtio::DeviceType> kDevices[] = {{"net", virtio::DeviceType::net},
                                                   {"blk", virtio::DeviceType::block}};
constexpr Choice<Failback> kFailbacks[] = {{"auto", Failback::automatic}, {"manual", Failback::manual}};
constexpr std::string_view kConnectionRule =
    "\"switch:NAME\" with the name of a switch, \"tap:INTERFACE\", \"reflect\", \"sink\", \"source\" or "
    "\"source:BYTES\" with frames of 60 to 1514 bytes";

/// True for a name that the kernel accepts for an interface.
bool is_interface(std::string_view name) {
  constexpr std::size_t kLongest = 15;  // IFNAMSIZ - 1
  return is_name(name) && name.size() <= kLongest;
}

/// The number of bytes in "source:BYTES".
std::optional<std::uint32_t> frame_size(std::string_view text) {
  std::uint32_t bytes = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bytes);
  if (error != std::errc() || end != text.data() + text.size() || bytes < 60 || bytes > 1514) return std::nullopt;
  return bytes;
}

Result<Connection> read_connection(const Section& section, const Config& config) {
  using Kind = Connection::Kind;
  CW_TRY(const auto text, section.required_text("connection", kConnectionRule));
  const std::string_view view = text;
  const std::size_t colon = view.find(':');
  const std::string_view kind = view.substr(0, colon);
  const std::string name(colon == std::string_view::npos ? "" : view.substr(colon + 1));
  if (colon == std::string_view::npos) {
    if (kind == "reflect") return Connection{.kind = Kind::reflect, .name = {}};
    if (kind == "sink") return Connection{.kind = Kind::sink, .name = {}};
    if (kind == "source") return Connection{.kind = Kind::source, .name = {}};
  }
  if (const auto bytes = frame_size(name); kind == "source" && bytes) {
    return Connection{.kind = Kind::source, .name = {}, .frame_bytes = *bytes};
  }
  if (kind == "tap" && is_interface(name)) return Connection{.kind = Kind::tap, .name = name};
  if (kind == "tap") return section.bad("connection", "\"tap:\" and an interface name of 1 to 15 characters");
  if (kind == "switch" && std::ranges::find(config.switches, name, &SwitchConfig::name) != config.switches.end()) {
    return Connection{.kind = Kind::to_switch, .name = name};
  }
  return section.bad("connection", kConnectionRule);
}

/// A port on a switch runs on the switch's worker, because a switch belongs to one thread.
Result<std::string> read_worker(const Section& section, const Config& config, const Connection& connection) {
  CW_TRY(const auto named, read_worker_name(section, config));
  if (connection.kind != Connection::Kind::to_switch) return named.value_or(config.workers.front().name);
  const auto on = std::ranges::find(config.switches, connection.name, &SwitchConfig::name);
  if (named && *named != on->worker) {
    return section.bad("worker",
                       fmt::format("{}, the worker of its switch '{}', or no such key", quote(on->worker), on->name));
  }
  return on->worker;
}

Result<std::string> read_port_socket(const Section& section, const Config& config) {
  CW_TRY(const auto socket, read_socket(section, "socket"));
  if (!socket) return section.missing("socket", "the path of the port's socket");
  const auto same = [&](const std::string& other) {
    return std::filesystem::path(other).lexically_normal() == std::filesystem::path(*socket).lexically_normal();
  };
  if (same(config.daemon.control)) return section.bad("socket", "a path other than the control socket's");
  for (const auto& other : config.ports) {
    if (same(other.socket))
      return section.bad("socket", fmt::format("a path other than that of port '{}'", other.name));
  }
  return *socket;
}

Result<net::MacAddress> read_mac(const Section& section, const PortConfig& port, const Config& config) {
  constexpr std::string_view kRule = "a unicast MAC address such as \"52:54:00:12:34:56\"";
  CW_TRY(const auto text, section.text("mac", kRule));
  if (!text) return mac_from_name(port.name);
  const auto mac = net::MacAddress::parse(*text);
  if (!mac || mac->is_multicast() || mac->is_zero()) return section.bad("mac", kRule);
  for (const auto& other : config.ports) {
    if (!other.disk && other.mac == *mac)
      return section.bad("mac", fmt::format("an address other than that of port '{}'", other.name));
  }
  return *mac;
}

Result<std::vector<std::string>> read_devices(const Section& section, const Config& config) {
  constexpr std::string_view kRule = "an array of 1 to 8 different names, such as [\"soft\"]";
  constexpr std::size_t kMost = 8;
  CW_TRY(auto devices, section.texts("devices", kRule));
  if (!devices) return std::vector<std::string>{"soft"};
  auto sorted = *devices;
  std::ranges::sort(sorted);
  if (sorted.empty() || sorted.size() > kMost || std::ranges::adjacent_find(sorted) != sorted.end() ||
      !std::ranges::all_of(sorted, is_name)) {
    return section.bad("devices", kRule);
  }
  for (const auto& port : config.ports) {
    for (const auto& name : *devices) {
      const bool is_shared = std::ranges::find(config.devices, name, &DeviceConfig::name) != config.devices.end();
      if (!is_shared || std::ranges::find(port.devices, name) == port.devices.end()) continue;
      return section.bad("devices", fmt::format("no {}, which belongs to port '{}'", quote(name), port.name));
    }
  }
  return std::move(*devices);
}

/// Where each queue pair or request queue begins; after all that says how many there are, and on what.
Result<std::vector<std::string>> read_bindings(const Section& section, const PortConfig& port) {
  const std::size_t count = port.disk ? port.disk->queues : port.queue_pairs;
  const std::string rule = fmt::format("an array of {} names of the port's devices, one for each {}", count,
                                       port.disk ? "queue" : "queue pair");
  CW_TRY(auto bindings, section.texts("bindings", rule));
  if (!bindings) return std::vector<std::string>();
  for (const auto& name : *bindings) {
    if (std::ranges::find(port.devices, name) != port.devices.end()) continue;
    return section.bad("bindings", fmt::format("{}; {} is none", rule, quote(name)));
  }
  if (bindings->size() == count) return std::move(*bindings);
  return section.bad("bindings", fmt::format("{}; it has {}", rule, bindings->size()));
}

Result<virtio::FeatureSet> read_features_off(const Section& section, virtio::DeviceType device) {
  constexpr std::string_view kRule = "an array of virtio feature names, such as [\"mrg_rxbuf\", \"event_idx\"]";
  CW_TRY(const auto names, section.texts("features-off", kRule));
  virtio::FeatureSet features;
  if (!names) return features;
  for (const auto& name : *names) {
    const auto bit = virtio::feature_by_name(device, name);
    if (!bit) return section.bad("features-off", fmt::format("{}; {} is none", kRule, quote(name)));
    features = features.with(*bit);
  }
  return features;
}

Result<std::uint16_t> read_queue_size(const Section& section, std::uint16_t fallback) {
  constexpr std::int64_t kMost = 32768;  // virtio 1.3 section 2.7
  CW_TRY(const auto size, section.whole("queue-size", 2, kMost));
  if (!size) return fallback;
  const auto value = static_cast<std::uint16_t>(*size);
  if (!std::has_single_bit(value)) return section.bad("queue-size", "a power of two from 2 to 32768");
  return value;
}

/// As what the port is served, and what only one of the ways has.
Result<void> read_transport(const Section& section, PortConfig& port) {
  constexpr Choice<Transport> kTransports[] = {{"vhost-user", Transport::vhost_user},
                                               {"vfio-user", Transport::vfio_user}};
  CW_TRY(port.transport, section.choice<Transport>("transport", port.transport, kTransports));
  CW_TRY(port.role, read_role(section, port.role));
  CW_TRY(port.inband_notifications, section.flag("inband-notifications", false));
  CW_TRY(port.vfio_groups, section.flag("vfio-groups", false));
  CW_TRY(port.postcopy, section.flag("postcopy", false));
  CW_TRY(port.ring_state, section.flag("ring-state", true));
  if (port.transport == Transport::vhost_user) {
    if (!section.has("ring-state")) return {};
    return section.bad("ring-state", "no such key where transport is not \"vfio-user\"");
  }
  if (port.role != Role::server) return section.bad("role", "\"server\", since its transport is \"vfio-user\"");
  for (const auto& [key, is_set] : {std::pair("inband-notifications", port.inband_notifications),
                                    std::pair("vfio-groups", port.vfio_groups), std::pair("postcopy", port.postcopy)}) {
    if (is_set) return section.bad(key, "no such key where transport is not \"vhost-user\"");
  }
  return {};
}

/// Pages that are still on their way stop who touches them here, but not a Device that is another process or hardware.
Result<void> check_postcopy(const Section& section, const Config& config, const PortConfig& port) {
  if (!port.postcopy) return {};
  for (const auto& name : port.devices) {
    if (std::ranges::find(config.devices, name, &DeviceConfig::name) == config.devices.end()) continue;
    return section.bad("postcopy", fmt::format("no such key where device {} is none of the daemon's own", quote(name)));
  }
  return {};
}

/// What only a port with a network device has.
Result<void> read_net_port(const Section& section, const Config& config, PortConfig& port) {
  CW_CHECK(section.allow_only({"name", "socket", "transport", "ring-state", "role", "device", "queue-pairs",
                               "queue-size", "mac", "mtu", "worker", "connection", "devices", "bindings", "failback",
                               "features-off", "inband-notifications", "vfio-groups", "postcopy"}));
  constexpr std::int64_t kMostPairs = 16;
  CW_TRY(const auto pairs, section.whole("queue-pairs", 1, kMostPairs));
  port.queue_pairs = static_cast<std::uint16_t>(pairs.value_or(1));
  CW_TRY(port.mac, read_mac(section, port, config));
  constexpr std::int64_t kLeastMtu = 68;  // virtio 1.3 section 5.1.4.1
  CW_TRY(const auto mtu, section.whole("mtu", kLeastMtu, 65535));
  if (mtu) port.mtu = static_cast<std::uint16_t>(*mtu);
  CW_TRY(port.connection, read_connection(section, config));
  CW_TRY(port.worker, read_worker(section, config, port.connection));
  return {};
}

}  // namespace

Result<PortConfig> read_port(Section section, const Config& config) {
  PortConfig port;
  CW_TRY(port.name, read_new_name(section, "port", config.ports));
  CW_TRY(port.socket, read_port_socket(section, config));
  CW_TRY(port.device, section.choice<virtio::DeviceType>("device", virtio::DeviceType::net, kDevices));
  if (port.device == virtio::DeviceType::block) {
    CW_TRY(port.disk, read_disk_port(section, config));
    port.worker = port.disk->workers.front();
  } else {
    CW_CHECK(read_net_port(section, config, port));
  }
  CW_CHECK(read_transport(section, port));
  CW_TRY(port.queue_size, read_queue_size(section, port.queue_size));
  CW_TRY(port.devices, read_devices(section, config));
  CW_CHECK(check_postcopy(section, config, port));
  CW_TRY(port.bindings, read_bindings(section, port));
  CW_TRY(port.failback, section.choice<Failback>("failback", Failback::automatic, kFailbacks));
  CW_TRY(port.features_off, read_features_off(section, port.device));
  return port;
}

}  // namespace causeway::config

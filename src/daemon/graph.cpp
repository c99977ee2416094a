#include "daemon/graph.h"

#include "base/log.h"
#include "net/nic.h"
#include "net/reflector.h"
#include "net/switch.h"
#include "net/tap_device.h"
#include "net/tap_link.h"
#include "vhost_user/frontend.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::daemon {
namespace {

using Kind = config::Connection::Kind;

net::Reflection reflection_of(Kind kind) {
  switch (kind) {
    case Kind::sink:
      return net::Reflection::sink;
    case Kind::source:
      return net::Reflection::source;
    default:
      return net::Reflection::reflect;
  }
}

Result<std::shared_ptr<net::Link>> make_tap_link(Worker& worker, const config::PortConfig& config) {
  CW_TRY(auto tap, net::TapDevice::open(config.connection.name, config.queue_pairs));
  CW_TRY(auto link, net::TapLink::make(worker, config.name, std::move(tap)));
  return std::shared_ptr<net::Link>(std::move(link));
}

vhost_user::Role role_of(config::Role role) {
  return role == config::Role::server ? vhost_user::Role::listen : vhost_user::Role::connect;
}

Result<std::unique_ptr<vdpa::Device>> make_remote_device(Loop& loop, const config::DeviceConfig& device,
                                                         const config::PortConfig& port) {
  vhost_user::FrontendConfig config;
  config.name = device.name;
  config.path = device.socket;
  config.role = role_of(device.role);
  config.type = port.device;
  config.queues = port.disk ? port.disk->queues : static_cast<std::uint16_t>(2 * port.queue_pairs);
  config.largest_ring = port.queue_size;
  config.reconnect = device.reconnect;
  config.mac = port.mac.bytes;
  config.mtu = port.mtu;
  CW_TRY(auto frontend, vhost_user::Frontend::make(loop, std::move(config)));
  return std::unique_ptr<vdpa::Device>(std::move(frontend));
}

Result<std::unique_ptr<vdpa::Device>> make_nic(Loop& loop, const std::string& name, const config::PortConfig& port,
                                               const std::shared_ptr<net::Link>& link) {
  net::NicConfig nic{
      .name = name, .mac = port.mac, .queue_pairs = port.queue_pairs, .mtu = port.mtu, .largest_ring = port.queue_size};
  CW_TRY(auto device, net::Nic::make(loop, std::move(nic), link));
  return std::unique_ptr<vdpa::Device>(std::move(device));
}

vhost_user::BackendConfig backend_config(const config::PortConfig& config) {
  return {.path = config.socket,
          .role = role_of(config.role),
          .options = {.inband_notifications = config.inband_notifications}};
}

}  // namespace

Result<std::unique_ptr<Graph>> Graph::build(Loop& loop, const config::Config& config, Former former) {
  std::unique_ptr<Graph> graph(new Graph(loop, config.devices));
  if (!config.daemon.state.empty()) {
    CW_TRY(graph->state_, port::StateDirectory::open(config.daemon.state));
  }
  CW_CHECK(graph->start_workers(config));
  CW_CHECK(graph->make_switches(config));
  for (const auto& port : config.ports) {
    CW_CHECK(graph->start_port(port, former));
  }
  return graph;
}

Graph::Graph(Loop& loop, std::vector<config::DeviceConfig> devices) : loop_(loop), devices_(std::move(devices)) {}

Graph::~Graph() {
  for (auto& entry : ports_) entry.backend.reset();
  ports_.clear();
}

Result<void> Graph::start_workers(const config::Config& config) {
  for (const auto& wanted : config.workers) {
    auto started = Worker::start(wanted);
    if (!started) return fail(std::move(started).error().context("worker " + wanted.name));
    workers_.push_back(std::move(*started));
  }
  return {};
}

Result<void> Graph::make_switches(const config::Config& config) {
  for (const auto& wanted : config.switches) {
    switches_.push_back(std::make_unique<net::Switch>(worker(wanted.worker), wanted.name));
  }
  return {};
}

Worker& Graph::worker(std::string_view name) const {
  return **std::ranges::find(workers_, name, [](const auto& worker) { return worker->config().name; });
}

Result<std::shared_ptr<net::Link>> Graph::make_link(const config::PortConfig& config) {
  const config::Connection& connection = config.connection;
  if (connection.kind == Kind::tap) return make_tap_link(worker(config.worker), config);
  if (connection.kind == Kind::to_switch) {
    const auto found = std::ranges::find(switches_, connection.name, [](const auto& entry) { return entry->name(); });
    return std::shared_ptr<net::Link>((*found)->add_port(config.name));
  }
  return std::make_shared<net::Reflector>(worker(config.worker), config.name, reflection_of(connection.kind),
                                          connection.frame_bytes);
}

Result<std::vector<std::unique_ptr<vdpa::Device>>> Graph::make_devices(PortEntry& entry) {
  const config::PortConfig& config = entry.config;
  // The software Devices of a port share what they are connected to, so that queues can move between them.
  std::shared_ptr<net::Link> link;
  if (config.disk) {
    std::vector<Worker*> workers;
    for (const auto& name : config.disk->workers) workers.push_back(&worker(name));
    CW_TRY(entry.disks, Disks::open(config, std::move(workers)));
  } else {
    CW_TRY(link, make_link(config));
  }
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  for (const auto& name : config.devices) {
    const auto remote = std::ranges::find(devices_, name, &config::DeviceConfig::name);
    CW_TRY(auto device, remote != devices_.end() ? make_remote_device(loop_, *remote, config)
                        : entry.disks            ? entry.disks->make(loop_, name)
                                                 : make_nic(loop_, name, config, link));
    devices.push_back(std::move(device));
  }
  return devices;
}

Result<void> Graph::make_port(PortEntry& entry) {
  CW_TRY(auto devices, make_devices(entry));
  CW_TRY(entry.port, port::Port::make(
                         loop_, {.name = entry.config.name, .features_off = entry.config.features_off, .state = state_},
                         std::move(devices)));
  return {};
}

Result<void> Graph::start_port(const config::PortConfig& config, Former former) {
  PortEntry entry{.config = config, .disks = {}, .port = {}, .backend = {}, .refused = {}};
  if (auto made = make_port(entry); !made) return fail(std::move(made).error().context("port " + config.name));
  if (state_ && former == Former::discard) port::discard_record(*state_, config.name);
  if (auto restored = restore_port(entry); restored) {
    CW_CHECK(start_server(entry));
  } else {
    entry.refused = restored.error().text();
    log::error("port {}: does not serve: {}. To start it empty: causeway port discard-state {}", config.name,
               entry.refused, config.name);
  }
  ports_.push_back(std::move(entry));
  return {};
}

Result<void> Graph::restore_port(PortEntry& entry) const {
  if (!state_) return {};
  CW_TRY(auto record, port::load_record(*state_, entry.config.name));
  if (!record) return {};
  return entry.port->restore(std::move(*record));
}

Result<void> Graph::start_server(PortEntry& entry) {
  const config::PortConfig& config = entry.config;
  CW_TRY(entry.backend, vhost_user::Backend::start(loop_, *entry.port, backend_config(config)));
  log::info("port {}: {} '{}', worker {}", config.name,
            config.role == config::Role::server ? "listens on" : "connects to", config.socket, config.worker);
  return {};
}

Result<void> Graph::discard_state(std::string_view name) {
  const auto found = std::ranges::find(ports_, name, [](const PortEntry& entry) { return entry.config.name; });
  if (found == ports_.end()) return fail(Errc::not_found, fmt::format("there is no port '{}'", name));
  if (found->backend) return fail(Errc::busy, fmt::format("port {} serves; its state is in use", name));
  port::discard_record(*state_, found->config.name);
  CW_CHECK(start_server(*found));
  found->refused.clear();
  log::info("port {}: starts empty, as told", name);
  return {};
}

Result<const PortEntry*> Graph::find(std::string_view name) const {
  const auto found = std::ranges::find(ports_, name, [](const PortEntry& entry) { return entry.config.name; });
  if (found == ports_.end()) return fail(Errc::not_found, fmt::format("there is no port '{}'", name));
  return &*found;
}

void Graph::check_memory() {
  for (const auto& entry : ports_) entry.port->check_memory();
}

}  // namespace causeway::daemon

#include "daemon/graph.h"

#include "base/log.h"
#include "daemon/graph_names.h"
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

/// The interface's queues of the process before, or the interface.
Result<net::TapDevice> open_tap(const config::PortConfig& config, Shelf& shelf) {
  const std::string& name = config.connection.name;
  std::vector<OwnedFd> queues;
  for (std::uint16_t i = 0; i < config.queue_pairs; ++i) {
    if (auto queue = shelf.take(tap_queue_name(name, i))) queues.push_back(std::move(*queue));
  }
  if (queues.empty()) return net::TapDevice::open(name, config.queue_pairs);
  if (queues.size() == config.queue_pairs) return net::TapDevice::adopt(name, std::move(queues));
  return fail(Errc::not_supported, fmt::format("tap {} had {} queues", name, queues.size()));
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
  config.vfio_groups = device.vfio_groups;
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

}  // namespace

Result<std::unique_ptr<Graph>> Graph::build(Loop& loop, const config::Config& config, Former former) {
  Shelf nothing;
  CW_TRY(auto graph, inherit(loop, config, nothing));
  CW_CHECK(graph->open(former));
  return graph;
}

Result<std::unique_ptr<Graph>> Graph::inherit(Loop& loop, const config::Config& config, Shelf& shelf) {
  std::unique_ptr<Graph> graph(new Graph(loop, config.devices));
  CW_CHECK(graph->make_objects(config, shelf));
  return graph;
}

Result<void> Graph::make_objects(const config::Config& config, Shelf& shelf) {
  if (!config.daemon.state.empty()) {
    CW_TRY(state_, port::StateDirectory::open(config.daemon.state, shelf.take(std::string(kStateLock))));
  }
  CW_CHECK(start_workers(config));
  CW_CHECK(make_switches(config));
  for (const auto& port : config.ports) {
    PortEntry entry;
    entry.config = port;
    if (auto made = make_port(entry, shelf); !made) return fail(std::move(made).error().context("port " + port.name));
    ports_.push_back(std::move(entry));
  }
  return {};
}

Result<void> Graph::open(Former former) {
  for (PortEntry& entry : ports_) {
    if (entry.backend) {
      entry.backend->thaw();
    } else if (!entry.serves()) {
      CW_CHECK(start_port(entry, former));
    }
  }
  return {};
}

Graph::Graph(Loop& loop, std::vector<config::DeviceConfig> devices) : loop_(loop), devices_(std::move(devices)) {}

Graph::~Graph() {
  for (auto& entry : ports_) {
    entry.backend.reset();
    entry.function.reset();
  }
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

Result<std::shared_ptr<net::Link>> Graph::make_link(PortEntry& entry, Shelf& shelf) {
  const config::PortConfig& config = entry.config;
  const config::Connection& connection = config.connection;
  if (connection.kind == Kind::tap) {
    CW_TRY(auto tap, open_tap(config, shelf));
    CW_TRY(entry.tap, net::TapLink::make(worker(config.worker), config.name, std::move(tap)));
    return entry.tap;
  }
  if (connection.kind == Kind::to_switch) {
    const auto found = std::ranges::find(switches_, connection.name, [](const auto& each) { return each->name(); });
    return std::shared_ptr<net::Link>((*found)->add_port(config.name));
  }
  return std::make_shared<net::Reflector>(worker(config.worker), config.name, reflection_of(connection.kind),
                                          connection.frame_bytes);
}

Result<std::unique_ptr<Disks>> Graph::make_disks(const config::PortConfig& config, Shelf& shelf) const {
  auto inherited = shelf.take(disk_name(config));
  if (!inherited && shelf.has_prefix(fmt::format("disk:{}:", config.name))) {
    return fail(Errc::not_supported, fmt::format("the guest's disk is not {}, as the configuration now says",
                                                 Disks::store_name(*config.disk)));
  }
  std::vector<Worker*> workers;
  for (const auto& name : config.disk->workers) workers.push_back(&worker(name));
  return Disks::open(config, std::move(workers), std::move(inherited));
}

Result<std::vector<std::unique_ptr<vdpa::Device>>> Graph::make_devices(PortEntry& entry, Shelf& shelf) {
  const config::PortConfig& config = entry.config;
  // The software Devices of a port share what they are connected to, so that queues can move between them.
  std::shared_ptr<net::Link> link;
  if (config.disk) {
    CW_TRY(entry.disks, make_disks(config, shelf));
  } else {
    CW_TRY(link, make_link(entry, shelf));
    entry.link = link;
  }
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  for (const auto& name : config.devices) {
    const auto other = std::ranges::find(devices_, name, &config::DeviceConfig::name);
    if (other != devices_.end() && other->kind != config::DeviceConfig::Kind::vhost_user) {
      auto made = Accelerator::make(loop_, *other, config);
      entry.accelerators.push_back(std::move(made.keeper));
      devices.push_back(std::move(made.device));
      continue;
    }
    if (other == devices_.end() && !entry.disks) entry.nics.push_back(name);
    CW_TRY(auto device, other != devices_.end() ? make_remote_device(loop_, *other, config)
                        : entry.disks           ? entry.disks->make(loop_, name)
                                                : make_nic(loop_, name, config, link));
    devices.push_back(std::move(device));
  }
  return devices;
}

Result<void> Graph::make_port(PortEntry& entry, Shelf& shelf) {
  CW_TRY(auto devices, make_devices(entry, shelf));
  port::PortConfig config{.name = entry.config.name,
                          .features_off = entry.config.features_off,
                          .state = keeps_state(entry) ? state_ : nullptr,
                          .failback = entry.config.failback == config::Failback::manual ? port::Failback::manual
                                                                                        : port::Failback::automatic,
                          .relay_worker = &worker(entry.config.worker),
                          .bindings = entry.config.bindings};
  CW_TRY(entry.port, port::Port::make(loop_, std::move(config), std::move(devices)));
  return {};
}

Result<void> Graph::start_port(PortEntry& entry, Former former) {
  if (keeps_state(entry) && former == Former::discard) port::discard_record(*state_, entry.config.name);
  if (auto restored = restore_port(entry); !restored) {
    entry.refused = restored.error().text();
    log::error("port {}: does not serve: {}. To start it empty: causeway port discard-state {}", entry.config.name,
               entry.refused, entry.config.name);
    return {};
  }
  return start_server(entry);
}

Result<void> Graph::restore_port(PortEntry& entry) const {
  if (!keeps_state(entry)) return {};
  CW_TRY(auto record, port::load_record(*state_, entry.config.name));
  if (!record) return {};
  return entry.port->restore(std::move(*record));
}

Result<void> Graph::start_server(PortEntry& entry) {
  const config::PortConfig& config = entry.config;
  if (config.transport == config::Transport::vfio_user) {
    CW_TRY(entry.function, FunctionServer::start(loop_, *entry.port, worker(config.worker), config));
    return {};
  }
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

bool PortEntry::has_peer() const {
  return function ? function->is_connected() : backend && backend->report().connected;
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

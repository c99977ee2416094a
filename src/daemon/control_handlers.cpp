#include "daemon/control_handlers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>
#include <vector>

namespace causeway::daemon {
namespace {

namespace api = control::v1;

std::string connection_text(const config::Connection& connection) {
  using Kind = config::Connection::Kind;
  switch (connection.kind) {
    case Kind::to_switch:
      return "switch:" + connection.name;
    case Kind::tap:
      return "tap:" + connection.name;
    case Kind::reflect:
      return "reflect";
    case Kind::sink:
      return "sink";
    case Kind::source:
      return "source";
  }
  return {};
}

std::string polling_text(Polling polling) {
  switch (polling) {
    case Polling::poll:
      return "poll";
    case Polling::adaptive:
      return "adaptive";
    case Polling::sleep:
      return "sleep";
  }
  return {};
}

std::string state_text(const PortEntry& entry, const port::PortReport& report) {
  const auto runs = [](const port::QueueReport& queue) { return queue.started && !queue.is_control; };
  if (!entry.serves()) return "refused";
  if (!entry.has_peer()) return "waiting";
  if (std::ranges::any_of(report.queues, &port::QueueReport::failed)) return "failed";
  return std::ranges::any_of(report.queues, runs) ? "running" : "connected";
}

/// Which queue is the control queue depends on what is negotiated; before, it is the last one.
std::string kind_text(const port::QueueReport& queue, const port::PortReport& report, std::uint32_t pairs) {
  if (report.type == virtio::DeviceType::block) return "request";
  if (queue.is_control) return "control";
  if (queue.index < 2 * pairs) return queue.index % 2 == 0 ? "receive" : "transmit";
  return report.negotiated == virtio::FeatureSet() ? "control" : "unused";
}

void fill_features(google::protobuf::RepeatedPtrField<std::string>& list, virtio::DeviceType type,
                   virtio::FeatureSet set) {
  std::istringstream words(virtio::text(type, set));
  for (std::string word; words >> word;) list.Add(std::move(word));
}

void fill(api::Queue& to, const port::QueueReport& from) {
  to.set_index(from.index);
  to.set_size(from.size);
  to.set_started(from.started);
  to.set_enabled(from.enabled);
  to.set_failed(from.failed);
  to.set_waits(from.waits);
  to.set_device(from.device);
  to.set_device_queue(from.device_queue);
  to.set_path(std::string(port::name_of(from.path)));
  to.set_run_again(from.run_again);
  to.set_doorbell(std::string(port::name_of(from.doorbell)));
  for (const auto& counter : from.counters) (*to.mutable_counters())[std::string(counter.name)] = counter.value;
}

void fill(api::NetPort& to, const config::PortConfig& from) {
  to.set_mac(from.mac.text());
  if (from.mtu) to.set_mtu(*from.mtu);
  to.set_queue_pairs(from.queue_pairs);
  to.set_queue_size(from.queue_size);
}

void fill(api::BlkPort& to, const PortEntry& entry) {
  const config::DiskPortConfig& disk = *entry.config.disk;
  to.set_capacity_bytes(entry.disks->bytes());
  to.set_queues(disk.queues);
  to.set_queue_size(entry.config.queue_size);
  to.set_block_size(disk.block_size);
  to.set_read_only(disk.read_only);
  to.set_serial(disk.serial);
  if (disk.limits.requests) to.set_iops(disk.limits.requests->per_second);
  if (disk.limits.bytes) to.set_bandwidth(disk.limits.bytes->per_second);
}

void fill(api::Translation& to, const port::TranslationCounts& from) {
  to.set_entries(from.entries);
  to.set_updates(from.updates);
  to.set_invalidations(from.invalidations);
  to.set_hits(from.hits);
  to.set_misses(from.misses);
  to.set_unanswered(from.unanswered);
}

void fill(api::Port& to, const PortEntry& entry) {
  const config::PortConfig& config = entry.config;
  const port::PortReport report = entry.port->report();
  to.set_name(config.name);
  to.set_device_type(config.disk ? "blk" : "net");
  to.set_socket(config.socket);
  to.set_transport(config.transport == config::Transport::vfio_user ? "vfio-user" : "vhost-user");
  to.set_role(config.role == config::Role::server ? "server" : "client");
  to.set_connection(config.disk ? Disks::store_name(*config.disk) : connection_text(config.connection));
  to.set_worker(config.worker);
  to.set_state(state_text(entry, report));
  to.set_refused(entry.refused);
  for (const auto& difference : report.differences) to.add_differences(difference);
  for (const auto& device : report.devices) to.add_devices(device);
  for (const auto& device : report.unusable) (*to.mutable_unusable())[device.name] = device.reason;
  for (const auto& device : report.uncounted) (*to.mutable_uncounted())[device.name] = device.reason;
  fill_features(*to.mutable_features_offered(), report.type, report.offered);
  fill_features(*to.mutable_features_negotiated(), report.type, report.negotiated);
  to.set_memory_regions(static_cast<std::uint32_t>(report.memory_regions));
  to.set_memory_bytes(report.memory_bytes);
  to.set_rebinds(report.rebinds);
  to.set_logging(report.logging);
  if (report.translation) fill(*to.mutable_translation(), *report.translation);
  for (const auto& queue : report.queues) {
    const std::string kind = kind_text(queue, report, config.queue_pairs);
    fill(*to.add_queues(), queue);
    to.mutable_queues()->rbegin()->set_kind(kind);
    if (kind == "control" || kind == "unused") continue;
    for (const auto& [name, value] : queue.totals) (*to.mutable_totals())[fmt::format("{}_{}", kind, name)] += value;
  }
  if (config.disk) {
    fill(*to.mutable_blk(), entry);
  } else {
    fill(*to.mutable_net(), config);
  }
}

void fill(api::Worker& to, const Worker& worker) {
  const WorkerConfig& config = worker.config();
  to.set_name(config.name);
  if (config.cpu) to.set_cpu(*config.cpu);
  to.set_polling(polling_text(config.polling));
  const WorkerStats stats = worker.stats();
  to.set_items(stats.items);
  to.set_busy_cycles(stats.busy_cycles);
  to.set_sleeps(stats.sleeps);
}

/// The data queues that a request means.
Result<std::vector<std::uint16_t>> wanted_queues(const PortEntry& entry, const api::RebindRequest& request) {
  const std::uint32_t pairs = entry.config.disk ? 0U : entry.config.queue_pairs;
  const auto last = static_cast<std::uint16_t>((entry.config.disk ? entry.config.disk->queues : 2 * pairs) - 1);
  using Target = api::RebindRequest::TargetCase;
  std::vector<std::uint16_t> queues;
  switch (request.target_case()) {
    case Target::kQueue:
      if (request.queue() > last) {
        return fail(Errc::not_found, fmt::format("there is no data queue {}; expected 0 to {}", request.queue(), last));
      }
      return std::vector{static_cast<std::uint16_t>(request.queue())};
    case Target::kQueuePair:
      if (pairs == 0) return fail(Errc::invalid_value, "a disk has no queue pairs; name a queue");
      if (request.queue_pair() >= pairs) {
        return fail(Errc::not_found,
                    fmt::format("there is no queue pair {}; expected 0 to {}", request.queue_pair(), pairs - 1));
      }
      return std::vector{static_cast<std::uint16_t>(2 * request.queue_pair()),
                         static_cast<std::uint16_t>(2 * request.queue_pair() + 1)};
    case Target::kAll:
      if (!request.all()) break;
      for (const auto& queue : entry.port->report().queues) {
        if (!queue.is_control && queue.index <= last) queues.push_back(queue.index);
      }
      return queues;
    case Target::TARGET_NOT_SET:
      break;
  }
  return fail(Errc::invalid_value, "no queue is named; expected a queue, a queue pair or all");
}

Result<port::RebindWish> wish_of(const api::RebindRequest& request) {
  port::RebindWish wish;
  if (request.has_device_queue()) {
    if (request.target_case() != api::RebindRequest::kQueue) {
      return fail(Errc::invalid_value, "a queue of the device is named; expected one queue of the port, too");
    }
    if (request.device_queue() > UINT16_MAX) {
      return fail(Errc::invalid_value, fmt::format("the device has no queue {}", request.device_queue()));
    }
    wish.device_queue = port::QueueIndex(static_cast<std::uint16_t>(request.device_queue()));
  }
  if (request.path().empty()) return wish;
  for (const auto path : {port::Path::direct, port::Path::relay}) {
    if (request.path() == port::name_of(path)) wish.path = path;
  }
  if (wish.path) return wish;
  return fail(Errc::invalid_value, fmt::format("there is no path '{}'; expected direct or relay", request.path()));
}

Result<api::RebindResponse> rebind_port(const PortEntry& entry, const api::RebindRequest& request) {
  const auto& devices = entry.config.devices;
  if (std::ranges::find(devices, request.device()) == devices.end()) {
    return fail(Errc::not_found,
                fmt::format("there is no device '{}'; expected {}", request.device(), fmt::join(devices, " or ")));
  }
  CW_TRY(const auto queues, wanted_queues(entry, request));
  CW_TRY(const auto wish, wish_of(request));
  api::RebindResponse response;
  for (const std::uint16_t queue : queues) {
    CW_CHECK(entry.port->rebind(port::QueueIndex(queue), request.device(), wish));
    response.add_queues(queue);
  }
  return response;
}

}  // namespace

void refresh_counters(const Graph& graph, std::string_view name, const std::shared_ptr<void>& token) {
  for (const auto& entry : graph.ports()) {
    if (name.empty() || entry.config.name == name) entry.port->refresh_counters(token);
  }
}

api::ListPortsResponse list_ports(const Graph& graph) {
  api::ListPortsResponse response;
  for (const auto& entry : graph.ports()) fill(*response.add_ports(), entry);
  for (const auto& worker : graph.workers()) fill(*response.add_workers(), *worker);
  return response;
}

Result<api::ShowPortResponse> show_port(const Graph& graph, const api::ShowPortRequest& request) {
  CW_TRY(const PortEntry* entry, graph.find(request.name()));
  api::ShowPortResponse response;
  fill(*response.mutable_port(), *entry);
  return response;
}

Result<api::RebindResponse> rebind(const Graph& graph, const api::RebindRequest& request) {
  CW_TRY(const PortEntry* entry, graph.find(request.name()));
  auto response = rebind_port(*entry, request);
  if (!response) return fail(std::move(response).error().context("port " + entry->config.name));
  return response;
}

Result<api::ResizeResponse> resize(const Graph& graph, const api::ResizeRequest& request) {
  CW_TRY(const PortEntry* entry, graph.find(request.name()));
  if (!entry->disks) return fail(Errc::not_supported, fmt::format("port {} has no disk", request.name()));
  auto bytes = entry->disks->resize();
  if (!bytes) return fail(std::move(bytes).error().context("port " + request.name()));
  api::ResizeResponse response;
  response.set_capacity_bytes(*bytes);
  return response;
}

Result<api::DiscardStateResponse> discard_state(Graph& graph, const api::DiscardStateRequest& request) {
  CW_CHECK(graph.discard_state(request.name()));
  return api::DiscardStateResponse{};
}

}  // namespace causeway::daemon

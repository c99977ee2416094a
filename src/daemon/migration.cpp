#include "daemon/migration.h"

#include "daemon/graph_names.h"
#include "daemon/migration_check.h"
#include "vhost_user/message_table.h"
#include "vhost_user/port_offer.h"
#include "virtio/net.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace causeway::daemon {
namespace {

namespace api = control::v1;
using virtio::DeviceType;

bool has_guest(const PortEntry& entry, const port::PortReport& report) {
  return entry.has_peer() && std::ranges::any_of(report.queues, [](const port::QueueReport& queue) {
           return queue.started && !queue.is_control;
         });
}

Result<std::vector<std::byte>> config_space(const port::Port& port) {
  std::vector<std::byte> space(port.info().config_size);
  CW_CHECK(port.read_config(0, space));
  return space;
}

/// The front-end may have told the guest less than we offer, and says so.
void put_told_mtu(const port::Port& port, std::span<std::byte> space) {
  constexpr std::size_t kOffset = offsetof(virtio::NetConfig, mtu);
  const auto told = port.record().mtu;
  if (!told || port.info().type != DeviceType::net || space.size() < kOffset + 2) return;
  space[kOffset] = static_cast<std::byte>(*told & 0xff);
  space[kOffset + 1] = static_cast<std::byte>(*told >> 8);
}

/// Why no guest can leave the port; empty when one can.
std::string leaving_obstacle(const PortEntry& entry) {
  const std::string& name = entry.config.name;
  if (!entry.serves()) return fmt::format("port {} here does not serve: {}", name, entry.refused);
  if (entry.config.transport == config::Transport::vfio_user) {
    return fmt::format("port {} here is served as vfio-user, and no front-end migrates a guest from that", name);
  }
  if (!entry.port->can_log()) {
    return fmt::format("port {} here cannot log the pages that are written: it has no worker that could relay", name);
  }
  return {};
}

void fill_queues(api::GuestNeeds& needs, const port::Port& port, const port::PortReport& report) {
  if (needs.has_guest()) {
    for (const port::QueueReport& queue : report.queues) {
      if (!queue.started) continue;
      api::QueueNeeds& need = *needs.add_queues();
      need.set_index(queue.index);
      need.set_size(queue.size);
      need.set_is_control(queue.is_control);
    }
    return;
  }
  for (std::uint32_t i = 0; i < port.info().queues; ++i) {
    api::QueueNeeds& need = *needs.add_queues();
    need.set_index(i);
    need.set_size(port.info().largest_ring);
  }
}

Result<api::GuestNeeds> needs_of(const PortEntry& entry) {
  const port::Port& port = *entry.port;
  const port::PortReport report = port.report();
  CW_TRY(auto config, config_space(port));
  api::GuestNeeds needs;
  needs.set_device_type(std::string(type_name(report.type)));
  needs.set_has_guest(has_guest(entry, report));
  put_told_mtu(port, config);
  needs.set_features((needs.has_guest() ? report.negotiated : vhost_user::offered_features(port)).bits());
  fill_queues(needs, port, report);
  needs.set_config(config.data(), config.size());
  needs.set_memory_regions(static_cast<std::uint32_t>(report.memory_regions));
  needs.set_in_flight(port.has_inflight());
  return needs;
}

/// Why none of the Devices can work a queue; empty: one can.
std::string unusable_text(const port::PortReport& report) {
  if (report.unusable.size() < report.devices.size()) return {};
  std::string text;
  for (const auto& [name, reason] : report.unusable) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", name, reason);
  }
  return text;
}

Result<MigrationTarget> target_of(const PortEntry& entry) {
  const port::Port& port = *entry.port;
  const port::PortReport report = port.report();
  const vhost_user::SessionOptions options = backend_config(entry.config).options;
  const auto protocol = vhost_user::offered_protocol_features(options.configured());
  MigrationTarget target{.name = entry.config.name,
                         .refused = entry.serves() ? std::string() : entry.refused,
                         .is_vhost_user = entry.config.transport == config::Transport::vhost_user,
                         .has_guest = has_guest(entry, report),
                         .unusable = unusable_text(report),
                         .type = report.type,
                         .offered = vhost_user::offered_features(port),
                         .queues = port.info().queues,
                         .largest_ring = port.info().largest_ring,
                         .config = {},
                         .memory_slots = static_cast<std::uint32_t>(vhost_user::offered_memory_slots(options)),
                         .records_in_flight = protocol.has(vhost_user::ProtocolFeature::inflight_shmfd)};
  // Of Devices that are gone nothing can be read, and nothing need be.
  if (target.unusable.empty()) {
    CW_TRY(target.config, config_space(port));
  }
  return target;
}

Result<std::string> obstacle_of(const Graph& graph, const api::CanTakeRequest& request) {
  const auto entry = graph.find(request.name());
  if (!entry) return entry.error().text() + " there: declare it in the configuration, or name another with --as";
  CW_TRY(const auto target, target_of(**entry));
  return first_obstacle(request.needs(), target);
}

}  // namespace

Result<api::MigrationNeedsResponse> migration_needs(const Graph& graph, const api::MigrationNeedsRequest& request) {
  CW_TRY(const PortEntry* entry, graph.find(request.name()));
  api::MigrationNeedsResponse response;
  response.set_obstacle(leaving_obstacle(*entry));
  if (!response.obstacle().empty()) return response;
  auto needs = needs_of(*entry);
  if (!needs) return fail(std::move(needs).error().context("port " + request.name()));
  *response.mutable_needs() = std::move(*needs);
  return response;
}

Result<api::CanTakeResponse> can_take(const Graph& graph, const api::CanTakeRequest& request) {
  auto obstacle = obstacle_of(graph, request);
  if (!obstacle) return fail(std::move(obstacle).error().context("port " + request.name()));
  api::CanTakeResponse response;
  response.set_can_take(obstacle->empty());
  response.set_obstacle(std::move(*obstacle));
  return response;
}

}  // namespace causeway::daemon

// The objects of a daemon go to another process.
#include "daemon/graph.h"
#include "daemon/graph_names.h"
#include "net/tap_link.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::daemon {

Result<void> Graph::can_hand_over() const {
  for (const PortEntry& entry : ports_) {
    if (entry.config.transport == config::Transport::vfio_user) {
      return fail(Errc::not_supported, fmt::format("port {}: a port that is served by vfio-user cannot be handed over "
                                                   "yet; restart the daemon instead",
                                                   entry.config.name));
    }
    if (entry.port->is_migrating()) {
      return fail(Errc::busy, fmt::format("port {}: its guest is being migrated; wait until that is over, or cancel it",
                                          entry.config.name));
    }
    for (const auto& name : entry.config.devices) {
      if (std::ranges::find(devices_, name, &config::DeviceConfig::name) == devices_.end()) continue;
      return fail(Errc::not_supported,
                  fmt::format("port {}: device '{}' is another process, and its connection cannot be handed over yet; "
                              "restart the daemon instead",
                              entry.config.name, name));
    }
  }
  return {};
}

void Graph::freeze() {
  for (PortEntry& entry : ports_) {
    if (entry.backend) entry.backend->freeze();
  }
}

void Graph::thaw() {
  for (PortEntry& entry : ports_) {
    if (entry.backend) entry.backend->thaw();
  }
}

void Graph::hand_over(ParcelWriter& estate, const OwnedFd& control, port::RecordFormat format) const {
  std::vector<std::pair<std::string, const OwnedFd*>> shelf{{std::string(kControlListener), &control}};
  if (state_) shelf.emplace_back(kStateLock, &state_->lock());
  for (const PortEntry& entry : ports_) {
    if (entry.disks && entry.disks->descriptor() != nullptr) {
      shelf.emplace_back(disk_name(entry.config), entry.disks->descriptor());
    }
    if (!entry.tap) continue;
    const net::TapDevice& tap = entry.tap->tap();
    for (std::uint16_t i = 0; i < tap.queue_count(); ++i) {
      shelf.emplace_back(tap_queue_name(tap.name(), i), &tap.queue(i));
    }
  }
  estate.number(static_cast<std::uint32_t>(shelf.size()));
  for (const auto& [name, fd] : shelf) {
    estate.text(name);
    estate.descriptor(*fd);
  }
  estate.number(static_cast<std::uint32_t>(std::ranges::count_if(ports_, &PortEntry::serves)));
  for (const PortEntry& entry : ports_) {
    if (!entry.serves()) continue;
    estate.text(entry.config.name);
    entry.backend->hand_over(estate, format);
  }
}

/// Workers of both processes are pinned to the same processors: those without queues must leave them to the others.
void Graph::rest_workers(bool resting) {
  for (const auto& worker : workers_) worker->rest(resting);
}

Result<void> Graph::take_over(ParcelReader& ports) {
  rest_workers(true);
  const auto count = ports.count(sizeof(std::uint32_t));
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::string name = ports.text();
    const auto found = std::ranges::find(ports_, name, [](const PortEntry& entry) { return entry.config.name; });
    if (found == ports_.end()) {
      return fail(Errc::not_supported, fmt::format("port {} is no longer in the configuration", name));
    }
    auto backend = vhost_user::Backend::take_over(loop_, *found->port, backend_config(found->config), ports);
    if (!backend) return fail(std::move(backend).error().context("port " + name));
    found->backend = std::move(*backend);
  }
  return ports.has_failed() ? ports.finish() : Result<void>();
}

void Graph::pause(ParcelWriter& positions) {
  rest_workers(true);
  for (PortEntry& entry : ports_) {
    if (!entry.serves()) continue;
    positions.text(entry.config.name);
    entry.port->pause(positions);
  }
}

Result<void> Graph::start_at(ParcelReader& positions) {
  rest_workers(false);
  const auto inherited = static_cast<std::size_t>(std::ranges::count_if(ports_, &PortEntry::serves));
  for (std::size_t i = 0; i < inherited && !positions.has_failed(); ++i) {
    const std::string name = positions.text();
    const auto found = std::ranges::find(ports_, name, [](const PortEntry& entry) { return entry.config.name; });
    if (found == ports_.end()) return fail(Errc::peer_violation, fmt::format("positions of a port '{}'", name));
    if (auto started = found->port->start_at(positions); !started) {
      return fail(std::move(started).error().context("port " + name));
    }
  }
  return positions.finish();
}

void Graph::go_on(bool has_run) {
  rest_workers(false);
  for (PortEntry& entry : ports_) {
    if (entry.serves()) entry.port->go_on(has_run);
  }
}

void Graph::leave_paths() {
  for (PortEntry& entry : ports_) {
    if (entry.backend) entry.backend->leave_path();
  }
}

}  // namespace causeway::daemon

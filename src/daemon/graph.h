// The objects of a running daemon: workers, switches, and ports with their Devices and servers.
#pragma once

#include "base/loop.h"
#include "base/worker.h"
#include "daemon/config/config.h"
#include "daemon/disks.h"
#include "port/port.h"
#include "vhost_user/backend.h"

#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace causeway::net {
class Link;
class Switch;
}  // namespace causeway::net

namespace causeway::daemon {

/// A port and the server that drives it. The server goes first; without one, `refused` says why the port does not
/// serve.
struct PortEntry {
  config::PortConfig config;
  std::unique_ptr<Disks> disks;  ///< for device type block
  std::unique_ptr<port::Port> port;
  std::unique_ptr<vhost_user::Backend> backend;
  std::string refused;
};

/// What the daemon does with records of its ports from before.
enum class Former : std::uint8_t { restore, discard };

/// Built from a configuration, all or nothing. Destruction stops the servers of all ports (which removes their
/// sockets), then the ports with their queues, then the switches, then the workers. Thread: control.
class Graph {
 public:
  /// The loop must outlive the graph. Errors name the port, switch or worker that cannot be made. A port whose record
  /// cannot be used is there, and does not serve.
  static Result<std::unique_ptr<Graph>> build(Loop& loop, const config::Config& config, Former former);
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph();

  std::span<const PortEntry> ports() const { return ports_; }
  std::span<const std::unique_ptr<Worker>> workers() const { return workers_; }
  /// Errc::not_found when there is no port of that name.
  Result<const PortEntry*> find(std::string_view name) const;
  /// Starts a port that was refused, without its record. Errc::not_found: no such port; Errc::busy: it serves.
  Result<void> discard_state(std::string_view name);
  /// Has every port look whether its guest's memory was lost.
  void check_memory();

 private:
  Graph(Loop& loop, std::vector<config::DeviceConfig> devices);
  Result<void> start_workers(const config::Config& config);
  Result<void> make_switches(const config::Config& config);
  Result<std::vector<std::unique_ptr<vdpa::Device>>> make_devices(PortEntry& entry);
  Result<void> make_port(PortEntry& entry);
  Result<void> start_port(const config::PortConfig& config, Former former);
  Result<void> restore_port(PortEntry& entry) const;
  Result<void> start_server(PortEntry& entry);
  Result<std::shared_ptr<net::Link>> make_link(const config::PortConfig& config);
  Worker& worker(std::string_view name) const;

  Loop& loop_;
  std::vector<config::DeviceConfig> devices_;  // those that ports name
  std::shared_ptr<const port::StateDirectory> state_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<net::Switch>> switches_;
  std::vector<PortEntry> ports_;
};

}  // namespace causeway::daemon

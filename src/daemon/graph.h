// The objects of a running daemon: workers, switches, and ports with their Devices and servers.
#pragma once

#include "base/loop.h"
#include "base/worker.h"
#include "daemon/accelerator.h"
#include "daemon/config/config.h"
#include "daemon/disks.h"
#include "daemon/function_server.h"
#include "daemon/handover.h"
#include "port/port.h"
#include "vhost_user/backend.h"

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::net {
class Link;
class Switch;
class TapLink;
}  // namespace causeway::net

namespace causeway::daemon {

/// A port and the server that drives it, one of two. The server goes first; without one, `refused` says why the port
/// does not serve.
struct PortEntry {
  config::PortConfig config;
  std::unique_ptr<Disks> disks;       ///< for device type block
  std::shared_ptr<net::TapLink> tap;  ///< when it is connected to one
  std::shared_ptr<net::Link> link;    ///< what its software NICs are connected to
  std::vector<std::string> nics;      ///< names of those Devices
  std::unique_ptr<port::Port> port;
  std::vector<std::unique_ptr<Accelerator>> accelerators;  ///< those of its Devices that come and go
  std::unique_ptr<vhost_user::Backend> backend;
  std::unique_ptr<FunctionServer> function;
  std::string refused;

  bool serves() const { return backend != nullptr || function != nullptr; }
  bool has_peer() const;
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

  // Live upgrade, in the new process, in the order of the calls:
  /// All objects, with what the old process has of them; no port serves yet.
  static Result<std::unique_ptr<Graph>> inherit(Loop& loop, const config::Config& config, Shelf& shelf);
  /// Takes the ports over that the old process has. Errors name the port.
  Result<void> take_over(ParcelReader& ports);
  Result<void> start_at(ParcelReader& positions);
  /// The ports that have been taken over hear their front-ends; the others start.
  Result<void> open(Former former);

  // In the old process:
  /// Errc::not_supported: a port has a Device that cannot go to another process; the text names it.
  Result<void> can_hand_over() const;
  void freeze();
  void thaw();
  /// Writes everything; `control` is the listening socket of the control API.
  void hand_over(ParcelWriter& estate, const OwnedFd& control, port::RecordFormat format) const;
  void pause(ParcelWriter& positions);
  /// Has the queues go on here. `has_run`: the other process, now dead, may have worked them.
  void go_on(bool has_run);
  void leave_paths();
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
  Result<std::vector<std::unique_ptr<vdpa::Device>>> make_devices(PortEntry& entry, Shelf& shelf);
  Result<void> make_port(PortEntry& entry, Shelf& shelf);
  void rest_workers(bool resting);
  Result<void> make_objects(const config::Config& config, Shelf& shelf);
  Result<void> start_port(PortEntry& entry, Former former);
  Result<void> restore_port(PortEntry& entry) const;
  Result<void> start_server(PortEntry& entry);
  /// A driver of a function resets it first, so that nothing of the one before is of use.
  bool keeps_state(const PortEntry& entry) const {
    return state_ != nullptr && entry.config.transport == config::Transport::vhost_user;
  }
  Result<std::shared_ptr<net::Link>> make_link(PortEntry& entry, Shelf& shelf);
  Result<std::unique_ptr<Disks>> make_disks(const config::PortConfig& config, Shelf& shelf) const;
  Worker& worker(std::string_view name) const;

  Loop& loop_;
  std::vector<config::DeviceConfig> devices_;  // those that ports name
  std::shared_ptr<const port::StateDirectory> state_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<net::Switch>> switches_;
  std::vector<PortEntry> ports_;
};

}  // namespace causeway::daemon

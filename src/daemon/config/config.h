// The daemon's configuration: plain values, read from a TOML file. Reference: docs/configuration.md.
#pragma once

#include "base/result.h"
#include "base/worker.h"
#include "net/ethernet.h"
#include "virtio/feature.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blk/rate_limiter.h"

namespace causeway::config {

struct DaemonConfig {
  std::string control = "/run/causeway/control.sock";  ///< socket of the control API
  std::string log_level = "info";                      ///< one that log::start takes
  /// Directory for what survives a crash; empty: nothing does. Unset in a file: `control` with the extension .state.
  std::string state = "/run/causeway/control.state";
  bool operator==(const DaemonConfig&) const = default;
};

struct SwitchConfig {
  std::string name;
  std::string worker;  ///< name of a worker that exists
  bool operator==(const SwitchConfig&) const = default;
};

/// Who listens on a socket.
enum class Role : std::uint8_t {
  server,  ///< we listen, the peer connects
  client,  ///< the peer listens, we connect, and connect again for ever
};

/// What a network port is connected to.
struct Connection {
  enum class Kind : std::uint8_t { to_switch, tap, reflect, sink, source };
  Kind kind = Kind::sink;
  std::string name;                ///< of the switch or the tap interface; empty otherwise
  std::uint32_t frame_bytes = 60;  ///< of the frames that a source sends
  bool operator==(const Connection&) const = default;
};

/// A Device that is not made by a port itself.
struct DeviceConfig {
  enum class Kind : std::uint8_t {
    vhost_user,  ///< another process, reached as a back-end
    vfio_user,   ///< another process, reached as a virtio-pci function
    vfio,        ///< a virtio-pci function behind the kernel's VFIO
  };
  std::string name;
  Kind kind = Kind::vhost_user;
  std::string socket;   ///< of another process
  std::string address;  ///< on the PCI bus: "0000:01:00.0"
  Role role = Role::client;
  /// vhost_user: when the other process leaves, waits for it, instead of using the port's next Device.
  bool reconnect = true;
  bool vfio_groups = false;  ///< vhost_user: takes VFIO groups, to hand them on
  bool operator==(const DeviceConfig&) const = default;
};

/// What only a port with a disk has.
struct DiskPortConfig {
  enum class Store : std::uint8_t { file, ram, null };
  Store store = Store::null;
  std::string path;         ///< of a file
  std::uint64_t bytes = 0;  ///< of the others
  std::uint16_t queues = 1;
  bool read_only = false;
  bool direct = false;  ///< of a file: past the page cache
  bool shared = false;  ///< of a file: an accelerator of the port has it open too
  bool writeback = true;
  bool discard = true;
  std::string serial;
  std::uint32_t block_size = 512;
  std::uint32_t physical_block_size = 0;  ///< 0: as block_size
  std::uint32_t least_io_size = 0;        ///< 0: not told
  std::uint32_t best_io_size = 0;         ///< 0: not told
  blk::RateLimits limits;
  std::vector<std::string> workers;  ///< at least one; the queues are spread over them
  bool operator==(const DiskPortConfig&) const = default;
};

/// As what a port is served.
enum class Transport : std::uint8_t {
  vhost_user,  ///< as a back-end
  vfio_user,   ///< as a virtio-pci function
};

/// What becomes of queues when their Device can be used again.
enum class Failback : std::uint8_t { automatic, manual };

struct PortConfig {
  std::string name;
  std::string socket;
  Transport transport = Transport::vhost_user;
  bool ring_state = true;  ///< vfio_user: the function says where its rings stand
  Role role = Role::server;
  virtio::DeviceType device = virtio::DeviceType::net;
  std::uint16_t queue_pairs = 1;
  std::uint16_t queue_size = 1024;  ///< largest ring offered
  net::MacAddress mac;
  std::optional<std::uint16_t> mtu;  ///< unset: the MTU feature is not offered
  std::string worker;                ///< name of a worker that exists
  Connection connection;
  /// Devices between which queues may be rebound; the first one is used first. One that is not in Config::devices is
  /// a software Device.
  std::vector<std::string> devices;
  /// Where each queue pair, or each request queue of a disk, begins: names among `devices`. Empty: on the first of them
  /// that has it.
  std::vector<std::string> bindings;
  Failback failback = Failback::automatic;
  virtio::FeatureSet features_off;  ///< never offered
  bool inband_notifications = false;
  bool vfio_groups = false;  ///< vhost_user: the front-end may have the VFIO groups of the Devices
  bool postcopy = false;     ///< vhost_user, and all Devices ours: a guest may come by post-copy; no memory slots then
  std::optional<DiskPortConfig> disk;  ///< for the device type block; what is above of network ports then means nothing
  bool operator==(const PortConfig&) const = default;
};

/// A whole configuration. All names in it exist and are unique; sockets are unique too.
struct Config {
  DaemonConfig daemon;
  std::vector<WorkerConfig> workers;  ///< at least one
  std::vector<SwitchConfig> switches;
  std::vector<DeviceConfig> devices;  ///< each named by one port at most
  std::vector<PortConfig> ports;
};

/// Reads a configuration from `text`; `file` is the name that errors begin with. Never throws.
Result<Config> parse_config(std::string_view text, std::string_view file);
/// Reads a configuration file.
Result<Config> load_config(const std::filesystem::path& file);

/// Longest path of a unix socket, without the closing zero.
inline constexpr std::size_t kMaxSocketPath = 107;

}  // namespace causeway::config

// What is to be seen of a port.
#pragma once

#include "port/driver_side.h"
#include "vdpa/device.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::port {

/// By which way a Device works a queue. Value type.
enum class Path : std::uint8_t {
  direct,  ///< the Device touches the guest's ring itself
};
std::string_view name_of(Path path);

/// Value type.
struct QueueReport {
  std::uint16_t index;
  bool is_control;
  std::uint32_t size;  ///< entries, 0 when not set
  bool started;
  bool enabled;
  bool failed;
  std::string device;
  Path path;
  Doorbell doorbell;
  std::uint32_t run_again;  ///< requests that were in flight when its last back-end died, and were run again
  std::vector<vdpa::Counter> counters;
};

/// A Device that cannot work any queue now. Value type.
struct UnusableDevice {
  std::string name;
  std::string reason;
};

/// Value type.
struct PortReport {
  std::string name;
  virtio::DeviceType type;
  bool attached;  ///< a driver side is there
  vdpa::Status status;
  virtio::FeatureSet offered;
  virtio::FeatureSet negotiated;
  std::size_t memory_regions;
  std::uint64_t memory_bytes;
  std::uint64_t rebinds;
  /// Of a driver side that came where another had been: none when it goes on where it was, else what differs.
  std::vector<std::string> differences;
  std::vector<std::string> devices;
  std::vector<UnusableDevice> unusable;
  std::vector<QueueReport> queues;
};

}  // namespace causeway::port

// What is to be seen of a port.
#pragma once

#include "port/driver_side.h"
#include "port/path.h"
#include "vdpa/device.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::port {

/// Value type.
struct QueueReport {
  std::uint16_t index;
  bool is_control;
  std::uint32_t size;  ///< entries, 0 when not set
  bool started;
  bool enabled;
  bool failed;
  bool waits;  ///< for its ring's addresses behind an IOMMU
  std::string device;
  std::uint16_t device_queue;  ///< the Device's number of it
  Path path;
  Doorbell doorbell;
  std::uint32_t run_again;  ///< requests that were in flight when its last back-end died, and were run again
  std::vector<vdpa::Counter> counters;  ///< of that Device
  std::vector<vdpa::Counter> totals;    ///< sums over all Devices: they never go back when the queue moves
};

/// What has been heard of an IOMMU since the process began. Value type.
struct TranslationCounts {
  std::size_t entries = 0;  ///< known now
  std::uint64_t updates = 0;
  std::uint64_t invalidations = 0;
  std::uint64_t hits = 0;      ///< buffers whose address was known when their chain was looked at
  std::uint64_t misses = 0;    ///< pages that were asked for
  std::size_t unanswered = 0;  ///< of those, now
};

/// What is to be said of a Device. Value type.
struct DeviceRemark {
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
  bool logging;  ///< written pages are logged, for a migration
  std::uint64_t rebinds;
  std::optional<TranslationCounts> translation;  ///< where addresses lie before an IOMMU
  /// Of a driver side that came where another had been: none when it goes on where it was, else what differs.
  std::vector<std::string> differences;
  std::vector<std::string> devices;
  std::vector<DeviceRemark> unusable;   ///< Devices that cannot work any queue now
  std::vector<DeviceRemark> uncounted;  ///< Devices that do not say what they have moved
  std::vector<QueueReport> queues;
};

}  // namespace causeway::port

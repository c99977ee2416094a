// What a Port knows of its driver, as a value that outlives the process: for a restart after a crash, for a front-end
// that comes back, and for a live upgrade.
#pragma once

#include "base/parcel.h"
#include "base/result.h"
#include "memory/memory_map.h"
#include "port/path.h"
#include "vdpa/device.h"
#include "virtio/ring.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace causeway::port {

/// How the addresses of a ring are given.
enum class RingAddressKind : std::uint8_t { frontend, guest };

/// The three addresses of a ring as a driver side gives them. Value type.
struct RingAddresses {
  RingAddressKind kind;
  std::uint64_t descriptors;
  std::uint64_t available;
  std::uint64_t used;
  bool operator==(const RingAddresses&) const = default;
};

/// A memory region without the memory. Value type.
struct RegionRecord {
  std::uint64_t iova;
  std::uint64_t frontend_va;
  std::uint64_t size;    ///< bytes
  std::uint64_t offset;  ///< in the file
  FileIdentity file;

  static RegionRecord of(const memory::Region& region);
  bool operator==(const RegionRecord&) const = default;
};

/// Where a byte of guest memory really is, whatever it is called. Value type.
struct MemoryPlace {
  FileIdentity file;
  std::uint64_t offset;  ///< in the file
  bool operator==(const MemoryPlace&) const = default;
};

struct QueueRecord {
  std::uint32_t size = 0;  ///< entries; 0: not set
  std::optional<RingAddresses> addresses;
  std::optional<MemoryPlace> place;  ///< of the descriptor area, once the queue has started
  bool started = false;
  bool enabled = false;
  std::string device;                                      ///< the binding
  std::optional<virtio::QueueState> start = std::nullopt;  ///< where it was to resume when it started last
  std::string preferred;                                   ///< the binding that is wanted
  std::uint16_t device_queue = 0;                          ///< the number that `device` knows it by
  std::uint16_t preferred_queue = 0;                       ///< the same of `preferred`
  std::optional<Path> path = std::nullopt;                 ///< the one that is wanted
  bool operator==(const QueueRecord&) const = default;
};

/// Value type.
struct PortRecord {
  std::string port;
  virtio::DeviceType type = virtio::DeviceType::net;
  virtio::FeatureSet features;  ///< negotiated
  vdpa::Status status = vdpa::Status::reset;
  std::vector<RegionRecord> memory;
  std::vector<QueueRecord> queues;
  std::map<std::uint64_t, std::vector<std::byte>> control;  ///< commands of the control queue still in force, by topic
  std::uint64_t rebinds = 0;
  std::map<std::uint32_t, std::byte> config;  ///< bytes of configuration space that the driver has written, by offset
  std::optional<std::uint16_t> mtu;           ///< as the front-end told it
  bool operator==(const PortRecord&) const = default;

  /// True when a driver has got so far that the next one is worth comparing with it.
  bool has_driver() const;
};

/// Formats of a record in bytes: 4 is written; 3 knows of a Device's queues only those of the guest's numbers, and
/// nothing of paths; 2 nothing of preferred bindings, which are then those that are there, and 1 nothing of `config`
/// and `mtu` either. They are written for a release that knows no other.
enum class RecordFormat : std::uint32_t { first = 1, second = 2, third = 3, current = 4 };

/// A head (magic, format, length, checksum), then the values.
std::vector<std::byte> encode(const PortRecord& record, RecordFormat format = RecordFormat::current);
/// Errc::peer_violation: truncated, changed, or contradicting itself; Errc::not_supported: a format that this release
/// does not know. The text says which.
Result<PortRecord> decode(std::span<const std::byte> bytes);

/// A position alone, as it stands in a record.
void write(ParcelWriter& to, const virtio::QueueState& state);
void read(ParcelReader& from, virtio::QueueState& state);

/// In what two drivers of one port differ, for people: "features: VERSION_1 then, VERSION_1 RING_PACKED now".
std::vector<std::string> differences(const PortRecord& before, const PortRecord& now);

}  // namespace causeway::port

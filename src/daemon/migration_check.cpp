#include "daemon/migration_check.h"

#include "daemon/config_space_check.h"
#include "virtio/blk.h"

#include <fmt/format.h>

#include <optional>
#include <span>

namespace causeway::daemon {
namespace {

namespace api = control::v1;
using virtio::DeviceType;
using virtio::FeatureSet;

std::optional<DeviceType> type_of(std::string_view name) {
  for (const DeviceType type : {DeviceType::net, DeviceType::block}) {
    if (type_name(type) == name) return type;
  }
  return std::nullopt;
}

/// For sentences: a guest that runs needs what it uses, else it is what one could use.
std::string_view uses(const api::GuestNeeds& needs) {
  return needs.has_guest() ? "the guest uses" : "a guest here could use";
}

std::string state_obstacle(const MigrationTarget& target) {
  if (!target.refused.empty()) {
    return fmt::format("port {} there does not serve: {}", target.name, target.refused);
  }
  if (!target.is_vhost_user) {
    return fmt::format(
        "port {} there is served as vfio-user, and no front-end migrates a guest to that; it takes `transport = "
        "\"vhost-user\"`",
        target.name);
  }
  if (target.has_guest) {
    return fmt::format("port {} there has a running guest already; end that one, or name another port with --as",
                       target.name);
  }
  if (!target.unusable.empty()) {
    return fmt::format("no device of port {} there can work a queue now: {}", target.name, target.unusable);
  }
  return {};
}

std::string feature_obstacle(const api::GuestNeeds& needs, const MigrationTarget& target) {
  const FeatureSet features(needs.features());
  const FeatureSet missing = features.minus(target.offered);
  if (missing != FeatureSet()) {
    return fmt::format(
        "{} {}, which port {} there does not offer: see `features-off` and the last of the `devices` there",
        uses(needs), virtio::text(target.type, missing), target.name);
  }
  const auto read_only = virtio::BlkFeature::ro;
  if (target.type == DeviceType::block && target.offered.has(read_only) && !features.has(read_only)) {
    return fmt::format("the disk can be written here and only read there: port {} there has `read-only = true`",
                       target.name);
  }
  return {};
}

std::string queue_obstacle(const api::GuestNeeds& needs, const MigrationTarget& target) {
  for (const api::QueueNeeds& queue : needs.queues()) {
    if (queue.is_control() || queue.index() < target.queues) continue;
    return fmt::format("{} queue {}, and port {} there has {} queues, from 0: raise `{}` there", uses(needs),
                       queue.index(), target.name, target.queues,
                       target.type == DeviceType::net ? "queue-pairs" : "queues");
  }
  for (const api::QueueNeeds& queue : needs.queues()) {
    if (queue.size() <= target.largest_ring) continue;
    return fmt::format(
        "{} a ring of {} entries (queue {}), and port {} there takes {} at most: raise `queue-size` there", uses(needs),
        queue.size(), queue.index(), target.name, target.largest_ring);
  }
  return {};
}

std::string memory_obstacle(const api::GuestNeeds& needs, const MigrationTarget& target) {
  if (needs.memory_regions() > target.memory_slots) {
    return fmt::format("the guest's memory has {} regions, and port {} there takes {} at most", needs.memory_regions(),
                       target.name, target.memory_slots);
  }
  if (needs.in_flight() && !target.records_in_flight) {
    return fmt::format("the front-end here keeps a record of requests in flight, and port {} there has none",
                       target.name);
  }
  return {};
}

}  // namespace

std::string_view type_name(DeviceType type) {
  switch (type) {
    case DeviceType::net:
      return "net";
    case DeviceType::block:
      return "blk";
  }
  return "unknown";
}

Result<std::string> first_obstacle(const api::GuestNeeds& needs, const MigrationTarget& target) {
  const auto type = type_of(needs.device_type());
  if (!type) {
    return fail(Errc::invalid_value,
                fmt::format("the needs are of a device '{}'; expected net or blk", needs.device_type()));
  }
  if (auto found = state_obstacle(target); !found.empty()) return found;
  if (*type != target.type) {
    return fmt::format("the device is {} here and {} there: name another port with --as", type_name(*type),
                       type_name(target.type));
  }
  if (auto found = feature_obstacle(needs, target); !found.empty()) return found;
  if (auto found = queue_obstacle(needs, target); !found.empty()) return found;
  const auto here = std::as_bytes(std::span(needs.config()));
  if (auto found = config_space_obstacle(*type, FeatureSet(needs.features()), here, target.config); !found.empty()) {
    return found;
  }
  return memory_obstacle(needs, target);
}

}  // namespace causeway::daemon

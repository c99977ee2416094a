// A port with a disk.
#include "daemon/config/parts.h"
#include "virtio/blk.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace causeway::config {
namespace {

constexpr std::string_view kConnectionRule =
    "\"file:PATH\", \"ram:SIZE\" or \"null:SIZE\" with a size such as 64M, in whole sectors of 512 bytes";
constexpr std::uint32_t kLargestBlock = 4096;

Result<void> read_connection(const Section& section, const Config& config, DiskPortConfig& disk) {
  CW_TRY(const std::string text, section.required_text("connection", kConnectionRule));
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) return section.bad("connection", kConnectionRule);
  const std::string kind = text.substr(0, colon);
  const std::string rest = text.substr(colon + 1);
  if (kind == "file") {
    if (rest.empty() || rest.find('\0') != std::string::npos) return section.bad("connection", kConnectionRule);
    for (const auto& other : config.ports) {
      if (other.disk && other.disk->path == rest && !(other.disk->read_only && disk.read_only))
        return section.bad("connection", fmt::format("a file other than that of port '{}'", other.name));
    }
    disk.store = DiskPortConfig::Store::file;
    disk.path = rest;
    return {};
  }
  const auto bytes = parse_amount(rest);
  if ((kind != "ram" && kind != "null") || !bytes || *bytes == 0 || *bytes % virtio::kSectorSize != 0) {
    return section.bad("connection", kConnectionRule);
  }
  disk.store = kind == "ram" ? DiskPortConfig::Store::ram : DiskPortConfig::Store::null;
  disk.bytes = *bytes;
  return {};
}

/// A size in bytes, which is 0 when it is not there.
Result<std::uint32_t> read_size(const Section& section, std::string_view key, std::uint32_t multiple_of) {
  constexpr std::uint64_t kMost = 1U << 25;
  CW_TRY(const auto size, section.amount(key, multiple_of));
  if (!size) return 0U;
  if (*size % multiple_of == 0 && *size <= kMost) return static_cast<std::uint32_t>(*size);
  return section.bad(key, fmt::format("a multiple of {}, at most {}", multiple_of, kMost));
}

Result<void> read_geometry(const Section& section, DiskPortConfig& disk) {
  const std::string block_rule = fmt::format("a power of two from {} to {}", virtio::kSectorSize, kLargestBlock);
  CW_TRY(const auto block, section.whole("block-size", virtio::kSectorSize, kLargestBlock));
  disk.block_size = static_cast<std::uint32_t>(block.value_or(virtio::kSectorSize));
  if (!std::has_single_bit(disk.block_size)) return section.bad("block-size", block_rule);
  CW_TRY(disk.physical_block_size, read_size(section, "physical-block-size", disk.block_size));
  if (disk.physical_block_size != 0 && !std::has_single_bit(disk.physical_block_size)) {
    return section.bad("physical-block-size", "a power of two, at least the block-size");
  }
  CW_TRY(disk.least_io_size, read_size(section, "min-io-size", disk.block_size));
  CW_TRY(disk.best_io_size, read_size(section, "opt-io-size", disk.block_size));
  return {};
}

/// A limit under `key`, with what may be saved up under `key`-burst; as much as for one second when that is not said.
Result<std::optional<blk::RateLimit>> read_limit(const Section& section, const std::string& key) {
  CW_TRY(const auto rate, section.amount(key, 1));
  CW_TRY(const auto burst, section.amount(key + "-burst", 1));
  if (rate) return std::optional(blk::RateLimit{.per_second = *rate, .burst = burst.value_or(*rate)});
  if (burst) return section.missing(key, "the limit that " + key + "-burst belongs to");
  return std::optional<blk::RateLimit>();
}

Result<std::vector<std::string>> read_workers(const Section& section, const Config& config) {
  constexpr std::string_view kRule = "an array of names of workers";
  CW_TRY(const auto one, read_worker_name(section, config));
  CW_TRY(auto several, section.texts("workers", kRule));
  if (!several) return std::vector{one.value_or(config.workers.front().name)};
  if (one) return section.bad("worker", "no such key beside workers");
  for (const auto& name : *several) {
    if (std::ranges::find(config.workers, name, &WorkerConfig::name) == config.workers.end()) {
      return section.bad("workers", fmt::format("{}; {} is none", kRule, quote(name)));
    }
  }
  if (several->empty()) return section.bad("workers", kRule);
  return std::move(*several);
}

}  // namespace

Result<DiskPortConfig> read_disk_port(const Section& section, const Config& config) {
  for (const std::string_view key : {"queue-pairs", "mac", "mtu"}) {
    if (section.has(key)) return section.bad(key, "no such key in a port whose device is \"blk\"");
  }
  CW_CHECK(section.allow_only({"name",
                               "socket",
                               "role",
                               "device",
                               "queues",
                               "queue-size",
                               "worker",
                               "workers",
                               "connection",
                               "devices",
                               "bindings",
                               "failback",
                               "features-off",
                               "read-only",
                               "direct",
                               "shared",
                               "writeback",
                               "discard",
                               "serial",
                               "block-size",
                               "min-io-size",
                               "opt-io-size",
                               "physical-block-size",
                               "iops",
                               "iops-burst",
                               "bandwidth",
                               "bandwidth-burst",
                               "inband-notifications",
                               "vfio-groups",
                               "postcopy",
                               "transport",
                               "ring-state"}));
  DiskPortConfig disk;
  constexpr std::int64_t kMostQueues = 64;
  CW_TRY(const auto queues, section.whole("queues", 1, kMostQueues));
  disk.queues = static_cast<std::uint16_t>(queues.value_or(1));
  CW_TRY(disk.read_only, section.flag("read-only", false));
  CW_TRY(disk.direct, section.flag("direct", false));
  CW_TRY(disk.shared, section.flag("shared", false));
  CW_TRY(disk.writeback, section.flag("writeback", true));
  CW_TRY(disk.discard, section.flag("discard", true));
  CW_CHECK(read_connection(section, config, disk));
  const std::string serial_rule = fmt::format("a text of at most {} bytes", virtio::kBlkIdSize);
  CW_TRY(const auto serial, section.text("serial", serial_rule));
  disk.serial = serial.value_or("");
  if (disk.serial.size() > virtio::kBlkIdSize) return section.bad("serial", serial_rule);
  CW_CHECK(read_geometry(section, disk));
  CW_TRY(disk.limits.requests, read_limit(section, "iops"));
  CW_TRY(disk.limits.bytes, read_limit(section, "bandwidth"));
  CW_TRY(disk.workers, read_workers(section, config));
  return disk;
}

}  // namespace causeway::config

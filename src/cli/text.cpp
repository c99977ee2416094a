#include "cli/text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

namespace causeway::cli {
namespace {

namespace api = control::v1;

/// The Device, with its number of the queue where that is another one.
std::string device_of(const api::Queue& queue) {
  return queue.device_queue() == queue.index() ? queue.device()
                                               : fmt::format("{}[{}]", queue.device(), queue.device_queue());
}

std::string state_of(const api::Queue& queue) {
  if (queue.failed()) return "failed";
  if (!queue.started()) return "stopped";
  return queue.enabled() ? "running" : "disabled";
}

/// Counters in the order of their names; protobuf's maps have none.
std::string counters_of(const api::Queue& queue) {
  const std::map<std::string, std::uint64_t> sorted(queue.counters().begin(), queue.counters().end());
  std::vector<std::string> words;
  for (const auto& [name, value] : sorted) words.push_back(fmt::format("{}={}", name, value));
  if (!queue.doorbell().empty() && queue.doorbell() != "none") {
    words.push_back(fmt::format("doorbell={}", queue.doorbell()));
  }
  if (queue.run_again() > 0) words.push_back(fmt::format("run_again={}", queue.run_again()));
  return fmt::format("{}", fmt::join(words, " "));
}

/// The totals of one kind of queue that are not zero.
std::string totals_of(const api::Port& port, std::string_view kind) {
  const std::map<std::string, std::uint64_t> sorted(port.totals().begin(), port.totals().end());
  std::vector<std::string> words;
  for (const auto& [name, value] : sorted) {
    if (name.starts_with(kind) && value != 0) words.push_back(fmt::format("{}={}", name.substr(kind.size()), value));
  }
  return words.empty() ? "nothing" : fmt::format("{}", fmt::join(words, " "));
}

std::string translation_of(const api::Translation& known) {
  const std::uint64_t looks = known.hits() + known.misses();
  return fmt::format("{} runs of addresses known, {} of {} looked up were, {} unanswered, {} invalidations",
                     known.entries(), known.hits(), looks, known.unanswered(), known.invalidations());
}

std::string queues_of(const api::Port& port) {
  const auto started = std::ranges::count_if(port.queues(), &api::Queue::started);
  return fmt::format("{}/{}", started, port.queues_size());
}

std::vector<Row> properties_of(const api::Port& port) {
  std::vector<Row> rows{
      {"name", port.name()},
      {"device type", port.device_type()},
      {"state", port.state()},
      {"socket", port.socket()},
      {"role", port.role()},
      {"connection", port.connection()},
      {"worker", port.worker()},
      {"devices", fmt::format("{}", fmt::join(port.devices(), " "))},
      {"offered", fmt::format("{}", fmt::join(port.features_offered(), " "))},
      {"negotiated", fmt::format("{}", fmt::join(port.features_negotiated(), " "))},
      {"memory", fmt::format("{} regions, {} MiB", port.memory_regions(), port.memory_bytes() >> 20)},
      {"rebinds", fmt::format("{}", port.rebinds())},
  };
  if (port.logging()) rows.push_back({"logging", "the pages that are written, for a live migration"});
  if (port.has_translation()) rows.push_back({"IOMMU", translation_of(port.translation())});
  if (!port.refused().empty()) rows.push_back({"refused", port.refused()});
  for (const auto& device : port.devices()) {
    const auto reason = port.unusable().find(device);
    if (reason != port.unusable().end()) rows.push_back({"unusable", fmt::format("{}: {}", device, reason->second)});
  }
  for (const auto& device : port.devices()) {
    const auto reason = port.uncounted().find(device);
    if (reason != port.uncounted().end()) {
      rows.push_back({"not counted", fmt::format("{}: {}", device, reason->second)});
    }
  }
  for (const auto& difference : port.differences()) rows.push_back({"new driver", difference});
  if (port.has_net()) {
    rows.push_back({"received", totals_of(port, "receive_")});
    rows.push_back({"transmitted", totals_of(port, "transmit_")});
    rows.push_back({"mac", port.net().mac()});
    rows.push_back({"mtu", port.net().has_mtu() ? fmt::format("{}", port.net().mtu()) : "not offered"});
    rows.push_back(
        {"queue pairs", fmt::format("{}, of at most {} entries", port.net().queue_pairs(), port.net().queue_size())});
  }
  if (port.has_blk()) {
    rows.push_back({"requests", totals_of(port, "request_")});
    const api::BlkPort& blk = port.blk();
    const auto limit = [](bool is_set, std::uint64_t value) { return is_set ? fmt::format("{}", value) : "none"; };
    rows.push_back({"capacity", fmt::format("{} bytes, blocks of {}{}", blk.capacity_bytes(), blk.block_size(),
                                            blk.read_only() ? ", read-only" : "")});
    rows.push_back({"serial", blk.serial()});
    rows.push_back({"request queues", fmt::format("{}, of at most {} entries", blk.queues(), blk.queue_size())});
    rows.push_back({"limits", fmt::format("requests/s: {}, bytes/s: {}", limit(blk.has_iops(), blk.iops()),
                                          limit(blk.has_bandwidth(), blk.bandwidth()))});
  }
  return rows;
}

}  // namespace

std::string table(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string result;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    result += line + '\n';
  }
  return result;
}

std::string text(const api::ListPortsResponse& response) {
  std::vector<Row> rows{{"NAME", "STATE", "CONNECTION", "QUEUES", "MAC", "WORKER", "ROLE", "SOCKET"}};
  for (const api::Port& port : response.ports()) {
    rows.push_back({port.name(), port.state(), port.connection(), queues_of(port), port.net().mac(), port.worker(),
                    port.role(), port.socket()});
  }
  return table(rows);
}

std::string text(const api::Port& port) {
  std::vector<Row> rows{{"QUEUE", "KIND", "SIZE", "STATE", "DEVICE", "PATH", "COUNTERS"}};
  for (const api::Queue& queue : port.queues()) {
    rows.push_back({fmt::format("{}", queue.index()), queue.kind(), fmt::format("{}", queue.size()), state_of(queue),
                    device_of(queue), queue.path(), counters_of(queue)});
  }
  return table(properties_of(port)) + '\n' + table(rows);
}

std::string text(const api::RebindResponse& response, const api::RebindRequest& request) {
  return fmt::format("port {}: queue{} {} on {}\n", request.name(), response.queues_size() == 1 ? "" : "s",
                     fmt::join(response.queues(), ", "), request.device());
}

std::string text(const api::InjectResponse& response, const std::string& port) {
  std::string line = fmt::format("port {}: {} frames delivered", port, response.delivered());
  if (!response.borrowed().empty()) line += fmt::format(", by a queue borrowed from {}", response.borrowed());
  return line + '\n';
}

std::string text(const api::CaptureBatch& sums, const std::string& port) {
  return fmt::format("port {}: {} frames captured, {} lost\n", port, sums.captured(), sums.lost());
}

std::string unseen_queues(const api::CaptureBatch& batch) {
  if (batch.unseen().empty()) return {};
  return fmt::format(
      "not seen: queue{} {}, on an accelerator; to see it, move it to software with `causeway port "
      "rebind`\n",
      batch.unseen_size() == 1 ? "" : "s", fmt::join(batch.unseen(), ", "));
}

}  // namespace causeway::cli

#include "virtio_pci/statistics.h"

#include "virtio/net.h"
#include "virtio/net_statistics.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

namespace causeway::virtio_pci {
namespace {

using virtio::NetStatistics;

constexpr NetStatistics type_of(std::uint16_t queue) {
  return queue % 2 == 0 ? NetStatistics::receive_basic : NetStatistics::transmit_basic;
}

std::vector<std::byte> command(virtio::NetCtrlStats number) {
  return {static_cast<std::byte>(virtio::NetCtrlClass::stats), static_cast<std::byte>(number)};
}

/// The start of `bytes`, which must be long enough.
template <class T>
T start_of(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

}  // namespace

std::vector<std::byte> Statistics::query() {
  return command(virtio::NetCtrlStats::query);
}

Result<void> Statistics::take_types(std::span<const std::byte> answer) {
  if (answer.size() < kQueryAnswer) {
    return fail(Errc::peer_violation, fmt::format("it names its statistics in {} bytes", answer.size()));
  }
  types_ = start_of<std::uint64_t>(answer);
  has_types_ = true;
  return {};
}

std::vector<std::byte> Statistics::get(std::uint16_t queues) const {
  auto bytes = command(virtio::NetCtrlStats::get);
  const std::size_t start = bytes.size();
  for (std::uint16_t i = 0; i < queues; ++i) {
    const std::uint64_t type = virtio::bit_of(type_of(i));
    if ((types_ & type) == 0) continue;
    const virtio::NetStatisticsRequest request{.queue = i, .reserved = {}, .types = type};
    const auto part = std::as_bytes(std::span(&request, 1));
    bytes.insert(bytes.end(), part.begin(), part.end());
  }
  return bytes.size() == start ? std::vector<std::byte>() : bytes;
}

std::size_t Statistics::get_answer(std::uint16_t queues) {
  return queues * sizeof(virtio::NetStatisticsBasic);
}

Result<void> Statistics::take(std::span<const std::byte> answer, std::uint16_t queues) {
  std::vector<Counted> after = queues_;
  if (after.size() < queues) after.resize(queues);
  while (answer.size() >= sizeof(virtio::NetStatisticsHeader)) {
    const auto header = start_of<virtio::NetStatisticsHeader>(answer);
    if (header.size == 0) break;  // behind the last part the function may have written nothing
    if (header.size < sizeof header || header.size > answer.size() || header.queue >= queues) {
      return fail(Errc::peer_violation, fmt::format("statistics of {} bytes, of which {} are left, for queue {} of {}",
                                                    header.size, answer.size(), header.queue, queues));
    }
    const auto part = answer.first(header.size);
    answer = answer.subspan(header.size);
    if (header.type != std::to_underlying(type_of(header.queue)) || part.size() < sizeof(virtio::NetStatisticsBasic)) {
      continue;
    }
    const auto basic = start_of<virtio::NetStatisticsBasic>(part);
    const std::array now{basic.notifications, basic.packets, basic.bytes,
                         basic.interrupts,    basic.dropped, basic.dropped_part};
    Counted& counted = after[header.queue];
    for (std::size_t i = 0; i < kCounters; ++i) {
      // One that is smaller than before has begun anew.
      counted.total[i] += now[i] >= counted.last[i] ? now[i] - counted.last[i] : now[i];
    }
    counted.last = now;
    counted.is_known = true;
  }
  queues_ = std::move(after);
  return {};
}

std::vector<vdpa::Counter> Statistics::counters(std::uint16_t queue) const {
  if (!has(queue)) return {};
  const auto& total = queues_[queue].total;
  const bool is_receive = type_of(queue) == NetStatistics::receive_basic;
  return {{.name = "kicks", .value = total[0]},
          {.name = "packets", .value = total[1]},
          {.name = "bytes", .value = total[2]},
          {.name = "calls", .value = total[3]},
          {.name = "dropped", .value = total[4]},
          {.name = is_receive ? "dropped_no_buffer" : "dropped_malformed", .value = total[5]}};
}

}  // namespace causeway::virtio_pci

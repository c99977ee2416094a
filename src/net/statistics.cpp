#include "net/statistics.h"

#include "net/little_endian.h"
#include "virtio/net.h"

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

namespace causeway::net {
namespace {

using virtio::NetCtrlClass;
using virtio::NetCtrlStats;
using virtio::NetFeature;
using virtio::NetStatistics;
using Bytes = std::span<const std::byte>;

constexpr std::size_t kCommandStart = 2;  // class and command
constexpr std::size_t kTypes = offsetof(virtio::NetStatisticsRequest, types);

vdpa::ControlReply refused() {
  return {.ack = virtio::kCtrlErr, .is_query = true};
}

std::vector<std::byte> bytes_of(const auto& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

/// One counter less what is counted elsewhere of it. They are read one after the other while they run.
std::uint64_t less(const Counter& whole, std::uint64_t part) {
  const std::uint64_t value = whole.value();
  return value > part ? value - part : 0;
}

std::uint64_t sum(std::initializer_list<const Counter*> counters) {
  std::uint64_t total = 0;
  for (const Counter* counter : counters) total += counter->value();
  return total;
}

virtio::NetStatisticsBasic basic(NetStatistics type, std::uint16_t queue, const QueueCounters& counted) {
  virtio::NetStatisticsBasic answer{};
  answer.header = {.type = std::to_underlying(type),
                   .reserved = 0,
                   .queue = queue,
                   .reserved1 = 0,
                   .size = static_cast<std::uint16_t>(sizeof answer)};
  answer.notifications = counted.kicks.value();
  answer.bytes = counted.bytes.value();
  answer.interrupts = counted.calls.value();
  if (type == NetStatistics::receive_basic) {
    answer.packets = counted.packets.value();
    answer.dropped = sum({&counted.dropped_no_buffer, &counted.dropped_too_long, &counted.dropped_filtered});
    answer.dropped_part = counted.dropped_no_buffer.value();
    return answer;
  }
  // What is lost behind this device, since nobody takes it there, was sent.
  answer.dropped_part = sum({&counted.dropped_bad_frame, &counted.dropped_bad_header});
  answer.dropped = answer.dropped_part + sum({&counted.dropped_disabled, &counted.dropped_no_buffer});
  answer.packets = less(counted.packets, answer.dropped);
  return answer;
}

/// One question of GET, answered behind what is there; false: it must not be asked.
bool answer(Bytes request, std::span<const QueueCounters> counters, std::vector<std::byte>& data) {
  const std::uint16_t queue = le16(request);
  const std::uint64_t types = le64(request, kTypes);
  if (queue >= counters.size()) return false;
  const auto type = queue % 2 == 0 ? NetStatistics::receive_basic : NetStatistics::transmit_basic;
  if ((types & ~virtio::bit_of(type)) != 0) return false;
  if (types == 0) return true;
  const auto part = bytes_of(basic(type, queue, counters[queue]));
  data.insert(data.end(), part.begin(), part.end());
  return true;
}

}  // namespace

bool is_statistics(Bytes command) {
  return !command.empty() && static_cast<NetCtrlClass>(command[0]) == NetCtrlClass::stats;
}

vdpa::ControlReply answer_statistics(Bytes command, virtio::FeatureSet negotiated,
                                     std::span<const QueueCounters> counters) {
  if (command.size() < kCommandStart || !negotiated.has(NetFeature::device_stats)) return refused();
  // Without these a driver has one pair, whatever the device has (5.1.2).
  const bool has_many = negotiated.has(NetFeature::mq) || negotiated.has(NetFeature::rss);
  if (!has_many) counters = counters.first(std::min<std::size_t>(counters.size(), 2));
  vdpa::ControlReply reply{.ack = virtio::kCtrlOk, .is_query = true};
  Bytes rest = command.subspan(kCommandStart);
  switch (static_cast<NetCtrlStats>(command[1])) {
    case NetCtrlStats::query:
      if (!rest.empty()) return refused();
      reply.data = bytes_of(kStatisticsTypes);
      return reply;
    case NetCtrlStats::get:
      constexpr std::size_t kRequest = sizeof(virtio::NetStatisticsRequest);
      if (rest.empty() || rest.size() % kRequest != 0) return refused();
      for (; !rest.empty(); rest = rest.subspan(kRequest)) {
        if (!answer(rest.first(kRequest), counters, reply.data)) return refused();
      }
      return reply;
  }
  return refused();
}

}  // namespace causeway::net

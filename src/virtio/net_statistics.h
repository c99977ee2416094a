// What a network device says it has counted (DEVICE_STATS): numbers and layouts. Spec: virtio 1.4 section 5.1.6.5,
// "Device Statistics".
#pragma once

#include <cstddef>
#include <cstdint>

namespace causeway::virtio {

/// Commands of NetCtrlClass::stats.
enum class NetCtrlStats : std::uint8_t { query = 0, get = 1 };

/// Types of statistics, by their number in an answer; the bit of that number stands for a type in a set of them.
enum class NetStatistics : std::uint8_t { receive_basic = 0, transmit_basic = 16 };
constexpr std::uint64_t bit_of(NetStatistics type) {
  return std::uint64_t{1} << static_cast<unsigned>(type);
}

/// What GET asks, any number of times. All of these are little-endian.
struct NetStatisticsRequest {
  std::uint16_t queue;
  std::uint16_t reserved[3];
  std::uint64_t types;
};
static_assert(sizeof(NetStatisticsRequest) == 16);

/// Begins each part of the answer to GET.
struct NetStatisticsHeader {
  std::uint8_t type;  ///< a NetStatistics
  std::uint8_t reserved;
  std::uint16_t queue;
  std::uint16_t reserved1;
  std::uint16_t size;  ///< bytes of the part, this header included
};
static_assert(sizeof(NetStatisticsHeader) == 8);

/// Of a receive queue, or of a transmit queue: there, `dropped_part` counts other frames.
struct NetStatisticsBasic {
  NetStatisticsHeader header;
  std::uint64_t notifications;  ///< by the driver
  std::uint64_t packets;        ///< given to the driver, or sent
  std::uint64_t bytes;          ///< of those packets
  std::uint64_t interrupts;     ///< sent to the driver
  std::uint64_t dropped;        ///< for whatever reason
  std::uint64_t dropped_part;   ///< of those: for want of a buffer; on a transmit queue, since they were malformed
};
static_assert(sizeof(NetStatisticsBasic) == 56);

}  // namespace causeway::virtio

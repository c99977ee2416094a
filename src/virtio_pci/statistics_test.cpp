#include "virtio_pci/statistics.h"

#include "virtio/net_statistics.h"

#include <gtest/gtest.h>

#include <cstring>
#include <utility>

namespace causeway::virtio_pci {
namespace {

using virtio::NetStatistics;
using Bytes = std::vector<std::byte>;

constexpr std::uint16_t kQueues = 2;

Bytes bytes_of(const auto& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

Bytes part(std::uint16_t queue, std::uint64_t packets) {
  const auto type = queue % 2 == 0 ? NetStatistics::receive_basic : NetStatistics::transmit_basic;
  virtio::NetStatisticsBasic basic{};
  basic.header = {
      .type = std::to_underlying(type), .reserved = 0, .queue = queue, .reserved1 = 0, .size = sizeof basic};
  basic.packets = packets;
  return bytes_of(basic);
}

Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

std::uint64_t packets(const Statistics& statistics, std::uint16_t queue) {
  for (const auto& counter : statistics.counters(queue)) {
    if (counter.name == "packets") return counter.value;
  }
  return ~0ULL;
}

TEST(FunctionStatistics, AskForTheTypesThatThereAre) {
  Statistics statistics;
  EXPECT_TRUE(statistics.get(kQueues).empty());
  ASSERT_TRUE(statistics.take_types(bytes_of(virtio::bit_of(NetStatistics::transmit_basic) | 1ULL << 40)));
  EXPECT_TRUE(statistics.has_types());
  const auto command = statistics.get(kQueues);
  ASSERT_EQ(command.size(), 2 + sizeof(virtio::NetStatisticsRequest));
  EXPECT_EQ(command[2], std::byte{1}) << "the transmit queue";
  EXPECT_FALSE(statistics.take_types(Bytes(7)));
}

TEST(FunctionStatistics, NeverGoBackWhenAFunctionCountsAnew) {
  Statistics statistics;
  EXPECT_FALSE(statistics.has(0));
  EXPECT_TRUE(statistics.counters(0).empty()) << "nothing is no zero";
  for (const auto& [said, total] : {std::pair{10, 10U}, {15, 15U}, {3, 18U}, {4, 19U}}) {
    ASSERT_TRUE(statistics.take(part(0, static_cast<std::uint64_t>(said)), kQueues));
    EXPECT_EQ(packets(statistics, 0), total);
  }
  EXPECT_FALSE(statistics.has(1));
}

TEST(FunctionStatistics, AnswersThatMakeNoSenseChangeNothing) {
  Statistics statistics;
  const auto good = part(0, 10);
  const auto with_size = [&](std::uint16_t size) {
    auto bent = good;
    std::memcpy(bent.data() + offsetof(virtio::NetStatisticsHeader, size), &size, sizeof size);
    return bent;
  };
  EXPECT_FALSE(statistics.take(part(1, 5) + with_size(57), kQueues)) << "longer than the answer";
  EXPECT_FALSE(statistics.take(part(1, 5) + with_size(7), kQueues)) << "shorter than its header";
  EXPECT_FALSE(statistics.take(part(1, 5) + part(2, 10), kQueues)) << "of a queue that was not asked about";
  EXPECT_FALSE(statistics.has(0) || statistics.has(1));
}

TEST(FunctionStatistics, PartsOfOtherTypesAndSizesArePassedOver) {
  Statistics statistics;
  auto other = part(0, 7);
  other[0] = std::byte{16};  // of a transmit queue, for a receive queue
  auto short_one = part(0, 7);
  short_one.resize(16);
  short_one[6] = std::byte{16};
  auto longer = part(1, 9) + Bytes(8);
  longer[6] = std::byte{64};  // of a later version of the standard
  ASSERT_TRUE(statistics.take(other + short_one + longer + Bytes(3), kQueues));
  EXPECT_FALSE(statistics.has(0));
  EXPECT_EQ(packets(statistics, 1), 9U);
  EXPECT_TRUE(statistics.take({}, kQueues));
}

}  // namespace
}  // namespace causeway::virtio_pci

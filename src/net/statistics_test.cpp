#include "net/statistics.h"

#include "virtio/net.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

namespace causeway::net {
namespace {

using virtio::FeatureSet;
using virtio::NetFeature;
using virtio::NetStatistics;

constexpr FeatureSet kOnePair{NetFeature::ctrl_vq, NetFeature::device_stats};
constexpr FeatureSet kPairs = kOnePair | FeatureSet{NetFeature::mq};
constexpr std::uint64_t kReceive = virtio::bit_of(NetStatistics::receive_basic);
constexpr std::uint64_t kTransmit = virtio::bit_of(NetStatistics::transmit_basic);

std::vector<std::byte> get(std::initializer_list<virtio::NetStatisticsRequest> requests) {
  std::vector<std::byte> command{std::byte{8}, std::byte{1}};
  for (const auto& request : requests) {
    const auto bytes = std::as_bytes(std::span(&request, 1));
    command.insert(command.end(), bytes.begin(), bytes.end());
  }
  return command;
}

virtio::NetStatisticsRequest request(std::uint16_t queue, std::uint64_t types) {
  return {.queue = queue, .reserved = {}, .types = types};
}

std::vector<virtio::NetStatisticsBasic> parts(const vdpa::ControlReply& reply) {
  std::vector<virtio::NetStatisticsBasic> all(reply.data.size() / sizeof(virtio::NetStatisticsBasic));
  EXPECT_EQ(reply.data.size(), all.size() * sizeof(virtio::NetStatisticsBasic));
  std::memcpy(all.data(), reply.data.data(), all.size() * sizeof(virtio::NetStatisticsBasic));
  return all;
}

struct Statistics : ::testing::Test {
  vdpa::ControlReply ask(const std::vector<std::byte>& command, FeatureSet negotiated = kPairs) const {
    return answer_statistics(command, negotiated, counters);
  }
  bool is_refused(const std::vector<std::byte>& command, FeatureSet negotiated = kPairs) const {
    const auto reply = ask(command, negotiated);
    return reply.ack != virtio::kCtrlOk && reply.data.empty() && reply.is_query;
  }
  std::array<QueueCounters, 4> counters;
};

TEST_F(Statistics, TypesAreThoseThatAreCounted) {
  const auto reply = ask({std::byte{8}, std::byte{0}});
  ASSERT_EQ(reply.ack, virtio::kCtrlOk);
  EXPECT_TRUE(reply.is_query);
  std::uint64_t types = 0;
  ASSERT_EQ(reply.data.size(), sizeof types);
  std::memcpy(&types, reply.data.data(), sizeof types);
  EXPECT_EQ(types, kReceive | kTransmit);
}

TEST_F(Statistics, OfAReceiveQueueSayWhatWasGivenToTheDriverAndWhatWasNot) {
  counters[2].kicks.add(1);
  counters[2].packets.add(20);
  counters[2].bytes.add(300);
  counters[2].calls.add(4);
  counters[2].dropped_no_buffer.add(5);
  counters[2].dropped_too_long.add(6);
  counters[2].dropped_filtered.add(7);
  const auto answer = parts(ask(get({request(2, kReceive)})));
  ASSERT_EQ(answer.size(), 1U);
  EXPECT_EQ(answer[0].header.type, 0);
  EXPECT_EQ(answer[0].header.queue, 2);
  EXPECT_EQ(answer[0].header.size, 56);
  EXPECT_EQ(answer[0].notifications, 1U);
  EXPECT_EQ(answer[0].packets, 20U);
  EXPECT_EQ(answer[0].bytes, 300U);
  EXPECT_EQ(answer[0].interrupts, 4U);
  EXPECT_EQ(answer[0].dropped, 18U);
  EXPECT_EQ(answer[0].dropped_part, 5U);
}

TEST_F(Statistics, OfATransmitQueueSayWhatWasSentNotWhatWasTaken) {
  counters[1].packets.add(100);
  counters[1].dropped_bad_frame.add(1);
  counters[1].dropped_bad_header.add(2);
  counters[1].dropped_disabled.add(4);
  counters[1].dropped_no_receiver.add(50);  // behind this device
  const auto answer = parts(ask(get({request(1, kTransmit)})));
  ASSERT_EQ(answer.size(), 1U);
  EXPECT_EQ(answer[0].header.type, 16);
  EXPECT_EQ(answer[0].packets, 93U);
  EXPECT_EQ(answer[0].dropped, 7U);
  EXPECT_EQ(answer[0].dropped_part, 3U);
}

TEST_F(Statistics, OfSeveralQueuesComeInTheOrderAsked) {
  const auto answer =
      parts(ask(get({request(3, kTransmit), request(0, kReceive), request(0, 0), request(0, kReceive)})));
  ASSERT_EQ(answer.size(), 3U) << "a queue of which nothing is asked has no part";
  EXPECT_EQ(answer[0].header.queue, 3);
  EXPECT_EQ(answer[1].header.queue, 0);
  EXPECT_EQ(answer[2].header.queue, 0);
}

TEST_F(Statistics, AreRefusedAsAWholeWhenOneQuestionIsWrong) {
  const auto good = request(0, kReceive);
  EXPECT_TRUE(is_refused(get({good, request(4, kReceive)}))) << "no such queue";
  EXPECT_TRUE(is_refused(get({good, request(0, kTransmit)}))) << "of the other kind";
  EXPECT_TRUE(is_refused(get({good, request(0, kReceive | 2)}))) << "a type that is not counted";
  EXPECT_TRUE(is_refused(get({request(0, 1ULL << 32)}))) << "of the control queue";
  EXPECT_TRUE(is_refused(get({}))) << "nothing is asked";
  auto cut = get({good});
  cut.pop_back();
  EXPECT_TRUE(is_refused(cut));
  EXPECT_TRUE(is_refused({std::byte{8}}));
  EXPECT_TRUE(is_refused({std::byte{8}, std::byte{0}, std::byte{0}})) << "QUERY has no data";
  EXPECT_TRUE(is_refused({std::byte{8}, std::byte{2}}));
}

TEST_F(Statistics, NeedTheFeatureAndWithoutMqTheFirstPairIsAll) {
  EXPECT_TRUE(is_refused(get({request(0, kReceive)}), {NetFeature::ctrl_vq}));
  EXPECT_FALSE(is_refused(get({request(1, kTransmit)}), kOnePair));
  EXPECT_TRUE(is_refused(get({request(2, kReceive)}), kOnePair));
}

}  // namespace
}  // namespace causeway::net

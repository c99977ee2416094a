// Any command of the class of statistics: nothing outside it is read, what is refused has no answer, and what is
// accepted has one part for each question that names a type, of the queues that were asked about. Input: features (8
// bytes), data queues (1 byte), then the command.

#include "net/little_endian.h"
#include "net/statistics.h"
#include "virtio/net.h"

#include <cstdlib>
#include <span>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace causeway;

void require(bool holds) {
  if (!holds) std::abort();
}

void check_get(std::span<const std::byte> questions, std::span<const std::byte> answer, std::size_t queues) {
  for (; !questions.empty(); questions = questions.subspan(sizeof(virtio::NetStatisticsRequest))) {
    if (net::le64(questions, offsetof(virtio::NetStatisticsRequest, types)) == 0) continue;
    require(answer.size() >= sizeof(virtio::NetStatisticsBasic));
    require(net::le16(answer, offsetof(virtio::NetStatisticsHeader, queue)) == net::le16(questions));
    require(net::le16(answer, offsetof(virtio::NetStatisticsHeader, size)) == sizeof(virtio::NetStatisticsBasic));
    require(net::le16(questions) < queues);
    answer = answer.subspan(sizeof(virtio::NetStatisticsBasic));
  }
  require(answer.empty());
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  if (input.size() < 9) return 0;
  const virtio::FeatureSet features(net::le64(input));
  const std::vector<net::QueueCounters> counters(1 + std::to_integer<std::size_t>(input[8]) % 32);
  // A copy of its own, so that a byte read behind it is noticed.
  const std::vector<std::byte> command(input.begin() + 9, input.end());
  const auto reply = net::answer_statistics(command, features, counters);
  require(reply.is_query);
  if (reply.ack != virtio::kCtrlOk) {
    require(reply.data.empty());
  } else if (command[1] == std::byte{0}) {
    require(reply.data.size() == sizeof net::kStatisticsTypes);
  } else {
    check_get(std::span(command).subspan(2), reply.data, counters.size());
  }
  return 0;
}

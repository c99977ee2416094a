// What lies in a driver's buffers when a frame has been delivered, for each layout and each size of the virtio header.

#include "net/receive_queue.h"

#include "net/transmit_queue.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "support/guest_memory.h"

namespace causeway::net {
namespace {

using testing::value_or_die;
using virtio::Feature, virtio::FeatureSet, virtio::NetFeature;

/// A frame whose every byte tells its place.
std::vector<std::byte> some_frame(std::uint32_t bytes) {
  std::vector<std::byte> frame(bytes);
  for (std::uint32_t i = 0; i < bytes; ++i) frame[i] = static_cast<std::byte>(i * 7 + 1);
  return frame;
}

/// A driver with buffers of `buffer_bytes`, and the device's queue.
struct Receiver {
  Receiver(FeatureSet features, std::uint32_t buffer_bytes)
      : ring(memory.make_ring(16, features.with(Feature::version_1))),
        driver(value_or_die(virtio::DriverQueue::start(ring, memory.map()))),
        queue(value_or_die(ReceiveQueue::start({.ring = ring, .kick = {}, .call = {}}, memory.map(), counters))) {
    for (std::uint64_t i = 0; i < 16; ++i) {
      buffers.push_back({.address = memory.allocate(buffer_bytes), .length = buffer_bytes});
      driver.add({}, {&buffers[i], 1}, i);
    }
    driver.publish();
  }

  /// Delivers a frame as it comes from a sender's buffer of pieces of `piece` bytes.
  void deliver(std::span<std::byte> bytes, std::size_t piece, HashResult hash = {}) {
    std::vector<memory::GuestSpan> segments;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      segments.push_back(memory::GuestSpan::over(bytes.subspan(at, std::min(piece, bytes.size() - at))));
    }
    Frame frame{.header = {}, .ethernet = {}, .length = static_cast<std::uint32_t>(bytes.size()), .segments = segments};
    frame.header.num_buffers = 1;
    frame.hash = hash;
    std::memcpy(&frame.ethernet, bytes.data(), sizeof frame.ethernet);
    queue->deliver(frame);
    queue->flush();
  }

  /// All that the device has written, used buffer after used buffer, and their number.
  std::vector<std::byte> written(unsigned& used_buffers) {
    std::vector<std::byte> all;
    used_buffers = 0;
    while (const auto used = driver.reap()) {
      const std::size_t old = all.size();
      all.resize(old + used->written);
      memory.at(buffers[used->token].address, used->written).read(0, std::span(all).subspan(old));
      ++used_buffers;
    }
    return all;
  }

  testing::GuestMemory memory;
  virtio::RingConfig ring;
  virtio::DriverQueue driver;
  QueueCounters counters;
  std::unique_ptr<ReceiveQueue> queue;
  std::vector<virtio::DriverBuffer> buffers;
};

class Delivery : public ::testing::TestWithParam<FeatureSet> {};

TEST_P(Delivery, WritesHeaderAndFrameWhateverTheirPieces) {
  for (const std::uint32_t bytes : {14U, 15U, 46U, 60U, 61U, 77U, 508U, 1514U}) {
    for (const std::size_t piece : {std::size_t{2000}, std::size_t{14}, std::size_t{33}}) {
      Receiver receiver(GetParam(), 2048);
      auto frame = some_frame(bytes);
      receiver.deliver(frame, piece);
      unsigned buffers = 0;
      const auto got = receiver.written(buffers);
      ASSERT_EQ(buffers, 1U);
      ASSERT_EQ(got.size(), sizeof(virtio::NetHeader) + bytes);
      virtio::NetHeader header;
      std::memcpy(&header, got.data(), sizeof header);
      EXPECT_EQ(header.num_buffers, 1);
      EXPECT_TRUE(std::equal(frame.begin(), frame.end(), got.begin() + sizeof header)) << bytes << " in " << piece;
    }
  }
}

TEST_P(Delivery, CountsAFrameThatFitsNoBufferAndUsesSeveralWhereItMay) {
  Receiver receiver(GetParam(), 100);
  auto frame = some_frame(500);
  receiver.deliver(frame, 2000);
  unsigned buffers = 0;
  const auto got = receiver.written(buffers);
  if (!GetParam().has(NetFeature::mrg_rxbuf)) {
    EXPECT_EQ(buffers, 0U);
    EXPECT_EQ(receiver.counters.dropped_too_long.value(), 1U);
    return;
  }
  virtio::NetHeader header;
  std::memcpy(&header, got.data(), sizeof header);
  EXPECT_EQ(buffers, 6U);
  EXPECT_EQ(header.num_buffers, 6);
  EXPECT_TRUE(std::equal(frame.begin(), frame.end(), got.begin() + sizeof header));
}

TEST_P(Delivery, ReportsTheHashBehindTheHeader) {
  Receiver receiver(GetParam().with(NetFeature::hash_report), 2048);
  auto frame = some_frame(60);
  receiver.deliver(frame, 2000, {.value = 0x12345678, .report = virtio::HashReport::tcp4});
  unsigned buffers = 0;
  const auto got = receiver.written(buffers);
  ASSERT_EQ(got.size(), virtio::kNetHeaderWithHashSize + frame.size());
  virtio::NetHeaderHash hash;
  std::memcpy(&hash, got.data() + sizeof(virtio::NetHeader), sizeof hash);
  EXPECT_EQ(hash.value, 0x12345678U);
  EXPECT_EQ(hash.report, static_cast<std::uint16_t>(virtio::HashReport::tcp4));
  EXPECT_TRUE(std::equal(frame.begin(), frame.end(), got.begin() + virtio::kNetHeaderWithHashSize));
}

TEST_P(Delivery, CountsAFrameForWhichThereIsNoBuffer) {
  Receiver receiver(GetParam(), 2048);
  auto frame = some_frame(60);
  for (int i = 0; i < 17; ++i) receiver.deliver(frame, 2000);
  EXPECT_EQ(receiver.counters.packets.value(), 16U);
  EXPECT_EQ(receiver.counters.dropped_no_buffer.value(), 1U);
  EXPECT_EQ(receiver.queue->buffers(), 0U);
}

INSTANTIATE_TEST_SUITE_P(Rings, Delivery,
                         ::testing::Values(FeatureSet(), FeatureSet{NetFeature::mrg_rxbuf},
                                           FeatureSet{Feature::ring_packed},
                                           FeatureSet{Feature::ring_packed}.with(NetFeature::mrg_rxbuf),
                                           FeatureSet{Feature::ring_packed, Feature::in_order}));

}  // namespace
}  // namespace causeway::net

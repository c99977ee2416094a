#include "port/record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <vector>

namespace causeway::port {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// One with something in every field.
PortRecord full_record() {
  PortRecord record{.port = "net0",
                    .type = virtio::DeviceType::net,
                    .features = virtio::FeatureSet{virtio::Feature::version_1, virtio::Feature::ring_packed},
                    .status = vdpa::Status::driver_ok,
                    .memory = {{.iova = 0x1000,
                                .frontend_va = 0x7f00'0000'0000,
                                .size = 1 << 20,
                                .offset = 4096,
                                .file = {.device = 5, .inode = 6}}},
                    .queues = {},
                    .control = {{1, {std::byte{0}, std::byte{1}, std::byte{1}}}, {7, {}}},
                    .rebinds = 12,
                    .config = {{32, std::byte{1}}, {33, std::byte{0}}},
                    .mtu = 9000};
  record.queues.push_back(
      {.size = 256,
       .addresses =
           RingAddresses{.kind = RingAddressKind::guest, .descriptors = 0x1000, .available = 0x2000, .used = 0x3000},
       .place = MemoryPlace{.file = {.device = 5, .inode = 6}, .offset = 4096},
       .started = true,
       .enabled = true,
       .device = "soft",
       .start =
           virtio::QueueState{.avail = 0x8005, .used = 0x8003, .in_flight = {{.id = 3, .descriptors = {{1, 2, 3, 4}}}}},
       .preferred = "nic",
       .device_queue = 4,
       .preferred_queue = 6,
       .path = Path::relay});
  record.queues.push_back(
      {.size = 0, .addresses = {}, .place = {}, .device = "other", .preferred = {}, .path = Path::direct});
  return record;
}

std::string reason(std::span<const std::byte> bytes) {
  const auto record = decode(bytes);
  return record ? "it is taken" : record.error().text();
}

TEST(PortRecord, IsReadAsItWasWritten) {
  const auto record = decode(encode(full_record()));
  ASSERT_TRUE(record) << record.error().text();
  EXPECT_EQ(*record, full_record());
}

TEST(PortRecord, InAnOlderFormatKnowsNothingOfWhatCameLater) {
  PortRecord expected = full_record();
  for (std::size_t i = 0; i < expected.queues.size(); ++i) {
    QueueRecord& queue = expected.queues[i];
    queue.device_queue = queue.preferred_queue = static_cast<std::uint16_t>(i);
    queue.path.reset();
  }
  for (const auto format : {RecordFormat::third, RecordFormat::second, RecordFormat::first}) {
    if (format == RecordFormat::second) {
      for (QueueRecord& queue : expected.queues) queue.preferred = queue.device;
    }
    if (format == RecordFormat::first) {
      expected.config.clear();
      expected.mtu.reset();
    }
    const auto record = decode(encode(full_record(), format));
    ASSERT_TRUE(record) << record.error().text();
    EXPECT_EQ(*record, expected);
  }
}

/// What a release wrote that knew format 1 only, byte by byte: such files will be there for ever.
TEST(PortRecord, OfTheFirstFormatIsStillReadAndWritten) {
  constexpr std::string_view kHex =
      "43575054010000003b0000006c46aaa9050000006469736b30020000000000000001000000040000000001000000800000000000000104"
      "000000736f667400000000000700000000000000";
  const PortRecord record{
      .port = "disk0",
      .type = virtio::DeviceType::block,
      .features = virtio::FeatureSet{virtio::Feature::version_1},
      .status = vdpa::Status::driver_ok,
      .memory = {},
      .queues = {{.size = 128, .addresses = {}, .place = {}, .enabled = true, .device = "soft", .preferred = "soft"}},
      .control = {},
      .rebinds = 7,
      .config = {},
      .mtu = {}};
  std::vector<std::byte> golden;
  for (std::size_t i = 0; i < kHex.size(); i += 2) {
    golden.push_back(static_cast<std::byte>(std::stoul(std::string(kHex.substr(i, 2)), nullptr, 16)));
  }
  EXPECT_EQ(encode(record, RecordFormat::first), golden);
  const auto read = decode(golden);
  ASSERT_TRUE(read) << read.error().text();
  EXPECT_EQ(*read, record);
}

TEST(PortRecord, WithAnyOneByteChangedIsRefused) {
  const auto whole = encode(full_record());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      auto bytes = whole;
      bytes[i] ^= std::byte(1U << bit);
      EXPECT_FALSE(decode(bytes)) << "byte " << i << ", bit " << bit;
    }
  }
}

TEST(PortRecord, OfAnyOtherLengthIsRefused) {
  auto bytes = encode(full_record());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_THAT(reason(std::span(bytes).first(length)), HasSubstr("truncated")) << length;
  }
  bytes.push_back(std::byte{0});
  EXPECT_THAT(reason(bytes), HasSubstr("has grown"));
}

TEST(PortRecord, SaysWhyItIsRefused) {
  auto bytes = encode(full_record());
  bytes.back() ^= std::byte{1};
  EXPECT_EQ(reason(bytes), "its checksum is wrong: it was changed or damaged");
  bytes.front() ^= std::byte{1};
  EXPECT_EQ(reason(bytes), "it is no record of a port");
  EXPECT_EQ(reason(encode(full_record(), RecordFormat{9})), "it is of format 9; this release knows 1 to 4");
}

TEST(PortRecord, WhoseChecksumIsRightMustStillMakeSense) {
  PortRecord record = full_record();
  record.queues[0].size = 0;
  EXPECT_EQ(reason(encode(record)), "it contradicts itself: a queue that runs without a ring");
  record.queues[0].size = 40000;
  EXPECT_EQ(reason(encode(record)), "it contradicts itself: a ring of 40000 entries");
}

RC_GTEST_PROP(PortRecord, OfAnyControlCommandsIsReadAsItWasWritten, ()) {
  PortRecord record = full_record();
  for (const auto topic : *rc::gen::arbitrary<std::vector<std::uint64_t>>()) {
    const auto text = *rc::gen::arbitrary<std::string>();
    const auto bytes = std::as_bytes(std::span(text));
    record.control[topic].assign(bytes.begin(), bytes.end());
  }
  record.port = *rc::gen::arbitrary<std::string>();
  const auto read = decode(encode(record));
  RC_ASSERT(read.has_value());
  RC_ASSERT(*read == record);
}

TEST(Differences, OfTheSameDriverAreNone) {
  EXPECT_THAT(differences(full_record(), full_record()), IsEmpty());
}

TEST(Differences, AreNamed) {
  PortRecord now = full_record();
  now.features = now.features.without(virtio::Feature::ring_packed).with(virtio::Feature::event_idx);
  now.memory[0].file.inode = 99;
  now.queues[0].size = 128;
  now.config.clear();
  EXPECT_THAT(
      differences(full_record(), now),
      ElementsAre("features: no longer {ring_packed}, newly {event_idx}",
                  "memory: 1 regions with 1048576 bytes, before 1 with 1048576, the same are 0",
                  "queue 0: a ring of 128 entries, before 256", "config: the driver had written other values into it"));
}

}  // namespace
}  // namespace causeway::port

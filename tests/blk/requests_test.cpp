// What each request does, against a model of the disk; and what is answered to those that are wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>

#include "blk/disk_rig.h"
#include "blk/ram_store.h"

namespace causeway::testing {
namespace {

using blk::RamStore;
using virtio::BlkFeature;
using virtio::BlkRequestType;
using virtio::BlkStatus;
using virtio::Feature;
using virtio::FeatureSet;

constexpr std::uint64_t kDisk = 1 << 20;
constexpr std::uint32_t kSector = virtio::kSectorSize;

const FeatureSet kAll =
    FeatureSet{BlkFeature::flush, BlkFeature::discard, BlkFeature::write_zeroes, BlkFeature::mq, BlkFeature::config_wce}
        .with(Feature::any_layout);

DiskRig make_rig(FeatureSet features = kAll, std::uint16_t queues = 2) {
  return {value_or_die(RamStore::make(kDisk)), {.driver = {.features = features, .queues = queues}}};
}

std::vector<std::byte> range(std::uint64_t sector, std::uint32_t sectors, std::uint32_t flags) {
  const virtio::BlkRange value{.sector = sector, .sectors = sectors, .flags = flags};
  std::vector<std::byte> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

/// A random request that is right, carried out on the model too.
void run_one(DiskRig& rig, std::vector<std::byte>& model) {
  const auto queue = static_cast<std::uint16_t>(*rc::gen::inRange(0, 2));
  const auto sectors = *rc::gen::inRange(1U, 65U);
  const std::uint64_t sector = *rc::gen::inRange<std::uint64_t>(0, kDisk / kSector - sectors + 1);
  const auto piece = *rc::gen::element(0U, 1000U, 4096U);
  const auto place = std::span(model).subspan(sector * kSector, sectors * kSector);
  BlkRequest request{
      .type = *rc::gen::element(BlkRequestType::in, BlkRequestType::in, BlkRequestType::out, BlkRequestType::out,
                                BlkRequestType::write_zeroes, BlkRequestType::flush),
      .sector = sector,
      .data = {},
      .answer_bytes = 0,
      .piece = piece};
  if (request.type == BlkRequestType::in) {
    request.answer_bytes = sectors * kSector;
  } else if (request.type == BlkRequestType::out) {
    request.data = pattern(sectors * kSector, *rc::gen::arbitrary<unsigned>());
    std::ranges::copy(request.data, place.begin());
  } else if (request.type == BlkRequestType::write_zeroes) {
    request.data = range(sector, sectors, *rc::gen::inRange(0U, 2U));
    std::ranges::fill(place, std::byte{0});
  }
  const auto done = rig.driver->run(queue, request);
  RC_ASSERT(done.status == BlkStatus::ok);
  RC_ASSERT(done.written == request.answer_bytes + 1);
  if (request.type == BlkRequestType::in) RC_ASSERT(std::ranges::equal(done.data, place));
}

void follows_the_model(FeatureSet features) {
  DiskRig rig = make_rig(features);
  std::vector<std::byte> model(kDisk);
  const auto count = *rc::gen::inRange(1, 60);
  for (int i = 0; i < count; ++i) run_one(rig, model);
}

RC_GTEST_PROP(DiskRequests, FollowTheModelOnASplitRing, ()) {
  follows_the_model(kAll);
}
RC_GTEST_PROP(DiskRequests, FollowTheModelOnAPackedRing, ()) {
  follows_the_model(kAll.with(Feature::ring_packed).with(Feature::event_idx));
}

struct Wrong {
  const char* name;
  BlkRequest request;
  BlkStatus status;
};

TEST(DiskRequests, WrongOnesAreAnsweredAsTheStandardSays) {
  DiskRig rig = make_rig();
  const std::uint64_t end = kDisk / kSector;
  const auto bytes = [](std::uint32_t count) { return pattern(count, 1); };
  using enum BlkRequestType;
  const Wrong all[] = {
      {"read behind the end", {.type = in, .sector = end, .data = {}, .answer_bytes = 512}, BlkStatus::ioerr},
      {"read over the end", {.type = in, .sector = end - 1, .data = {}, .answer_bytes = 1024}, BlkStatus::ioerr},
      {"read at the far end", {.type = in, .sector = ~0ULL, .data = {}, .answer_bytes = 512}, BlkStatus::ioerr},
      {"half a sector", {.type = in, .data = {}, .answer_bytes = 256}, BlkStatus::ioerr},
      {"write behind the end", {.type = out, .sector = end, .data = bytes(512)}, BlkStatus::ioerr},
      {"half a sector written", {.type = out, .data = bytes(100)}, BlkStatus::ioerr},
      {"discard with a flag", {.type = discard, .data = range(0, 8, 1)}, BlkStatus::unsupp},
      {"write-zeroes with an unknown flag", {.type = write_zeroes, .data = range(0, 8, 2)}, BlkStatus::unsupp},
      {"discard behind the end", {.type = discard, .data = range(end, 8, 0)}, BlkStatus::ioerr},
      {"discard of half a range", {.type = discard, .data = bytes(8)}, BlkStatus::ioerr},
      {"discard of two ranges", {.type = discard, .data = bytes(32)}, BlkStatus::ioerr},
      {"an unknown type", {.type = static_cast<BlkRequestType>(99), .data = {}}, BlkStatus::unsupp},
  };
  for (const Wrong& wrong : all) {
    EXPECT_EQ(rig.driver->run(0, wrong.request).status, wrong.status) << wrong.name;
  }
  EXPECT_EQ(counter(rig, 0, "errors"), std::size(all));
  EXPECT_EQ(rig.driver->run(0, {.type = in, .data = {}, .answer_bytes = 512}).status, BlkStatus::ok);
}

TEST(DiskRequests, WhatWasNotNegotiatedIsUnsupported) {
  DiskRig rig = make_rig(FeatureSet{BlkFeature::flush, BlkFeature::mq});
  EXPECT_EQ(rig.driver->run(0, {.type = BlkRequestType::discard, .data = range(0, 8, 0)}).status, BlkStatus::unsupp);
  EXPECT_EQ(rig.driver->run(0, {.type = BlkRequestType::write_zeroes, .data = range(0, 8, 0)}).status,
            BlkStatus::unsupp);
}

TEST(DiskRequests, TheSerialNumberHasTwentyBytes) {
  DiskRig rig(value_or_die(RamStore::make(kDisk)),
              {.driver = {.features = {}}, .disk = {.name = {}, .serial = "causeway-42"}});
  const auto id = rig.driver->run(0, {.type = BlkRequestType::get_id, .data = {}, .answer_bytes = 20});
  EXPECT_EQ(id.status, BlkStatus::ok);
  EXPECT_EQ(id.written, 21U);
  EXPECT_EQ(std::memcmp(id.data.data(), "causeway-42\0\0\0\0\0\0\0\0\0", 20), 0);
}

TEST(DiskConfigSpace, SaysWhatTheDiskIs) {
  DiskRig rig = make_rig();
  virtio::BlkConfig space{};
  ASSERT_TRUE(rig.port->read_config(0, std::as_writable_bytes(std::span(&space, 1))));
  EXPECT_EQ(space.capacity, kDisk / kSector);
  EXPECT_EQ(space.blk_size, 512U);
  EXPECT_EQ(space.num_queues, 2U);
  EXPECT_EQ(space.writeback, 1U);
  const std::byte off{0};
  EXPECT_TRUE(rig.port->write_config(offsetof(virtio::BlkConfig, writeback), std::span(&off, 1)));
  EXPECT_FALSE(rig.port->write_config(0, std::span(&off, 1)));
  std::byte outside[2];
  EXPECT_FALSE(rig.port->read_config(sizeof space - 1, outside));
}

TEST(DiskConfigSpace, ANewCapacityIsAnnounced) {
  DiskRig rig = make_rig();
  for (blk::Disk* disk : rig.disks) disk->capacity_changed();
  EXPECT_GT(rig.driver->config_changes(), 0U);
}

}  // namespace
}  // namespace causeway::testing

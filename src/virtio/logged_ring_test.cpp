// A ring whose writes are logged: every page that was written before the driver can see it used, and no other.

#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "support/translated_memory.h"

namespace causeway::virtio {
namespace {

using memory::DirtyLog, memory::Iova;
using testing::GuestMemory, testing::value_or_die;

constexpr std::uint64_t kPage = DirtyLog::kPage;
constexpr std::uint64_t kBytes = 1 << 20;
constexpr std::uint64_t kLogBytes = (GuestMemory::kBase + kBytes) / kPage / 8;
constexpr std::uint16_t kEntries = 16;

struct LoggedRings : ::testing::TestWithParam<FeatureSet> {
  LoggedRings() : ring(memory.make_ring(kEntries, GetParam())) {
    ring.log = value_or_die(DirtyLog::map(file, 0, kLogBytes));
  }

  /// Pages are counted from the start of the guest's memory. Those of the ring are the first.
  static Iova page(std::uint64_t n) { return Iova(GuestMemory::kBase + n * kPage); }
  static DriverBuffer buffer(std::uint64_t n, std::uint32_t length) { return {.address = page(n), .length = length}; }

  /// What was marked since the last call, but for the ring itself.
  std::set<std::uint64_t> marked() {
    std::set<std::uint64_t> pages = all_marked();
    std::erase_if(pages, [](std::uint64_t n) { return n < kRingPages; });
    return pages;
  }
  std::set<std::uint64_t> all_marked() {
    std::set<std::uint64_t> pages;
    const auto bits = memory::GuestSpan::over({mapping->data(), mapping->size()});
    constexpr std::uint64_t kFirst = GuestMemory::kBase / kPage;
    for (std::uint64_t n = 0; n < kBytes / kPage; ++n) {
      if (((bits.fetch<std::uint8_t>((kFirst + n) / 8) >> ((kFirst + n) % 8)) & 1) != 0) pages.insert(n);
    }
    bits.write(kFirst / 8, std::vector<std::byte>(kBytes / kPage / 8));
    return pages;
  }

  /// Takes what the driver sends, and uses it.
  template <Extent kExtent>
  void use_one(const std::vector<DriverBuffer>& readable, const std::vector<DriverBuffer>& writable,
               std::uint32_t written, const std::shared_ptr<const memory::MemoryMap>& map) {
    auto driver = value_or_die(DriverQueue::start(ring, map));
    ASSERT_TRUE(driver.add(readable, writable, 0));
    driver.publish();
    with_device_ring<kExtent>(ring, [&]<class Ring>() {
      auto device = value_or_die(Ring::start(ring, map));
      ChainBatch batch;
      ASSERT_EQ(device.take(batch, kEntries), 1U);
      device.disarm();
      all_marked();
      if constexpr (kExtent == Extent::exact) {
        device.use(batch[0], written, batch.writable(batch[0]));
      } else {
        device.use(batch[0], written);
      }
      EXPECT_EQ(all_marked(), std::set<std::uint64_t>{}) << "too early: it can be written yet";
      device.publish();
    });
  }
  template <Extent kExtent>
  void use_one(const std::vector<DriverBuffer>& readable, const std::vector<DriverBuffer>& writable,
               std::uint32_t written) {
    use_one<kExtent>(readable, writable, written, memory.map());
  }

  static constexpr std::uint64_t kRingPages = 4;
  GuestMemory memory{kBytes};
  OwnedFd file = value_or_die(make_memfd("log", kLogBytes));
  std::shared_ptr<const Mapping> mapping = value_or_die(Mapping::map(file, 0, kLogBytes));
  RingConfig ring;
};

TEST_P(LoggedRings, WhatAUserSaysThatItWroteIsMarked) {
  use_one<Extent::exact>({buffer(10, 100)}, {buffer(20, 100), buffer(22, 3 * kPage), buffer(30, 100)}, 100 + kPage + 1);
  EXPECT_EQ(marked(), (std::set<std::uint64_t>{20, 22, 23}));
}

TEST_P(LoggedRings, AUserThatMayHaveWrittenAnythingMarksItAll) {
  use_one<Extent::unknown>({buffer(10, 100)}, {buffer(20, 100), buffer(22, 2 * kPage), buffer(30, 100)}, 0);
  EXPECT_EQ(marked(), (std::set<std::uint64_t>{20, 22, 23, 30}));
}

TEST_P(LoggedRings, ReadableBuffersAreNotMarkedTheRingIs) {
  use_one<Extent::unknown>({buffer(10, 100)}, {}, 0);
  const auto pages = all_marked();
  EXPECT_FALSE(pages.empty());
  EXPECT_LT(*pages.rbegin(), kRingPages);
}

TEST_P(LoggedRings, ChangesOfEventSuppressionAreMarked) {
  with_device_ring<Extent::unknown>(ring, [&]<class Ring>() {
    auto device = value_or_die(Ring::start(ring, memory.map()));
    all_marked();
    device.arm();
    EXPECT_FALSE(all_marked().empty());
    device.disarm();
    EXPECT_FALSE(all_marked().empty());
  });
}

/// The log is one of the guest's memory, whatever addresses its driver uses.
TEST_P(LoggedRings, BehindAnIommuItIsTheMemoryThatIsMarked) {
  ring = testing::apart(ring);
  memory::Iotlb iotlb;
  const auto at = [](std::uint64_t n) { return Iova(page(n).value() + testing::kApart); };
  testing::learn(iotlb, memory, at(0), kBytes);
  use_one<Extent::exact>({}, {{.address = at(20), .length = 2 * kPage}}, kPage + 1, iotlb.map(memory.map()));
  const auto pages = all_marked();
  EXPECT_LT(*pages.begin(), kRingPages);
  EXPECT_TRUE(pages.contains(20));
  EXPECT_EQ(*pages.rbegin(), 21U);
}

TEST_P(LoggedRings, OfWhatWasInFlightBeforeTheWritesAreMarkedToo) {
  auto driver = value_or_die(DriverQueue::start(ring, memory.map()));
  const DriverBuffer room = buffer(20, 100);
  ASSERT_TRUE(driver.add({}, {&room, 1}, 0));
  driver.publish();
  ChainBatch batch;
  auto before = value_or_die(DeviceQueue::start(ring, memory.map(), Remember::in_flight));
  ASSERT_EQ(before.take(batch, 1), 1U);
  ring.start = before.state(batch.chains());
  auto device = value_or_die(DeviceQueue::start(ring, memory.map(), Remember::in_flight));
  batch.clear();
  ASSERT_EQ(device.take(batch, 1), 1U);
  all_marked();
  device.use(batch[0], 100);
  device.publish();
  EXPECT_EQ(marked(), std::set<std::uint64_t>{20});
}

INSTANTIATE_TEST_SUITE_P(Layouts, LoggedRings,
                         ::testing::Values(FeatureSet{}, FeatureSet{Feature::event_idx},
                                           FeatureSet{Feature::ring_packed}));

}  // namespace
}  // namespace causeway::virtio

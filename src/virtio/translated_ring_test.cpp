// The device side of both layouts behind an IOMMU: a chain with an address that is not known waits in its ring.

#include "memory/iotlb.h"
#include "virtio/driver_queue.h"
#include "virtio/packed_device_queue.h"
#include "virtio/split_device_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/translated_memory.h"

namespace causeway::virtio {
namespace {

using memory::Access, memory::Iova, memory::Miss;
using testing::GuestMemory, testing::value_or_die;
using testing::kApart, testing::kPage, testing::translation;

constexpr std::uint64_t kBytes = 1 << 20;

/// A driver that knows all addresses, and a device that at first knows only those of the ring.
template <class Ring>
class TranslatedRing : public ::testing::Test {
 protected:
  static constexpr bool kIsPacked = std::is_same_v<Ring, PackedDeviceQueue>;
  static constexpr std::uint16_t kEntries = 16;

  void start(FeatureSet more = {}) {
    config_ = testing::apart(memory_.make_ring(kEntries, kIsPacked ? more.with(Feature::ring_packed) : more));
    memory::Iotlb all;
    ASSERT_TRUE(all.update(translation(page(0), kBytes), *memory_.map()));
    all_ = all.map(memory_.map());
    std::optional<IndirectArea> tables;
    if (more.has(Feature::indirect_desc)) tables.emplace(page(kTables));
    driver_.emplace(value_or_die(DriverQueue::start(config_, all_, tables)));
    learn(page(0), kRingPages * kPage);
    device_.emplace(value_or_die(Ring::start(config_, known(), Remember::in_flight)));
  }

  static Iova page(std::uint64_t n) { return Iova(GuestMemory::kBase + kApart + n * kPage); }
  std::shared_ptr<const memory::MemoryMap> known() const { return iotlb_.map(memory_.map()); }
  void learn(Iova at, std::uint64_t size = kPage, Access access = Access::read_write) {
    ASSERT_TRUE(iotlb_.update(translation(at, size, access), *memory_.map()));
    if (!device_) return;
    ASSERT_TRUE(device_->replace_map(known()));
  }

  void send(const std::vector<DriverBuffer>& readable, const std::vector<DriverBuffer>& writable = {}) {
    ASSERT_TRUE(driver_->add(readable, writable, 0));
    driver_->publish();
  }
  static DriverBuffer buffer(std::uint64_t n, std::uint32_t length = 100) {
    return {.address = page(n), .length = length};
  }
  static Miss read(std::uint64_t n) { return {.at = page(n), .access = Access::read}; }
  static Miss write(std::uint64_t n) { return {.at = page(n), .access = Access::write}; }

  std::uint16_t take() {
    batch_.clear();
    return device_->take(batch_, 32);
  }
  /// Nothing is taken, and this is asked for, once.
  void expect_waits(const std::vector<Miss>& misses) {
    EXPECT_EQ(take(), 0U);
    EXPECT_EQ(device_->fault(), RingFault::none);
    EXPECT_EQ(batch_.segment_count(), 0U);
    EXPECT_EQ(device_->take_misses(), misses);
    EXPECT_TRUE(device_->take_misses().empty());
  }
  /// Each segment is the memory of the driver's address that stands beside it.
  void expect_segments(const Chain& chain, const std::vector<DriverBuffer>& expected) {
    const auto segments = batch_.all(chain);
    const auto addresses = batch_.addresses(chain);
    ASSERT_EQ(segments.size(), expected.size());
    ASSERT_EQ(addresses.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(addresses[i], expected[i].address);
      EXPECT_EQ(segments[i].size(), expected[i].length);
      EXPECT_EQ(segments[i].to_iovec().iov_base,
                memory_.at(Iova(expected[i].address.value() - kApart), 1).to_iovec().iov_base);
    }
  }

  static constexpr std::uint64_t kRingPages = 4;
  static constexpr std::uint64_t kTables = 100;
  GuestMemory memory_{kBytes};
  RingConfig config_ = memory_.make_ring(kEntries);
  memory::Iotlb iotlb_;
  std::shared_ptr<const memory::MemoryMap> all_;
  std::optional<DriverQueue> driver_;
  std::optional<Ring> device_;
  ChainBatch batch_;
};

using Rings = ::testing::Types<SplitDeviceQueue, PackedDeviceQueue>;
struct RingNames {
  template <class Ring>
  static std::string GetName(int) {  // NOLINT(readability-identifier-naming): GoogleTest's
    return std::is_same_v<Ring, PackedDeviceQueue> ? "Packed" : "Split";
  }
};
TYPED_TEST_SUITE(TranslatedRing, Rings, RingNames);

TYPED_TEST(TranslatedRing, DoesNotStartWhereItsOwnAddressesAreNotKnownOrMustNotBeUsedSo) {
  this->start();
  const auto start = [&](Access access) {
    memory::Iotlb iotlb;
    const auto ring = translation(this->page(0), this->kRingPages * kPage, access);
    EXPECT_TRUE(iotlb.update(ring, *this->memory_.map()));
    std::vector<Miss> misses;
    const auto map = iotlb.map(this->memory_.map());
    const bool is_allowed = RingAreas::list_missing(this->config_, *map, misses);
    const bool started = TypeParam::start(this->config_, map).has_value();
    EXPECT_EQ(started, is_allowed && misses.empty());
    return started;
  };
  EXPECT_TRUE(start(Access::read_write));
  EXPECT_FALSE(start(Access::read));
  EXPECT_FALSE(start(Access::write));
  EXPECT_FALSE(start(Access::none));
  const auto nothing = memory::Iotlb().map(this->memory_.map());
  std::vector<Miss> misses;
  EXPECT_TRUE(RingAreas::list_missing(this->config_, *nothing, misses));
  EXPECT_FALSE(misses.empty());
  const auto refused = TypeParam::start(this->config_, nothing);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::not_supported);
}

TYPED_TEST(TranslatedRing, AChainWaitsUntilItsAddressIsKnown) {
  this->start();
  this->send({this->buffer(10)});
  this->expect_waits({this->read(10)});
  this->expect_waits({this->read(10)});
  this->learn(this->page(11));
  this->expect_waits({this->read(10)});
  this->learn(this->page(10));
  ASSERT_EQ(this->take(), 1U);
  this->expect_segments(this->batch_[0], {this->buffer(10)});
  EXPECT_EQ(this->batch_[0].readable_bytes, 100U);
  EXPECT_TRUE(this->device_->take_misses().empty());
  this->device_->use(this->batch_[0], 0);
  this->device_->publish();
  EXPECT_TRUE(this->driver_->reap());
}

TYPED_TEST(TranslatedRing, ChainsBeforeOneThatWaitsAreTakenAndThoseBehindItAskFor) {
  this->start();
  this->learn(this->page(10));
  this->learn(this->page(13));
  this->send({this->buffer(10)});
  this->send({}, {this->buffer(11)});
  this->send({this->buffer(12)}, {this->buffer(13), this->buffer(14)});
  this->send({this->buffer(13)});
  this->send({this->buffer(11)});
  ASSERT_EQ(this->take(), 1U);
  this->expect_segments(this->batch_[0], {this->buffer(10)});
  EXPECT_EQ(this->device_->fault(), RingFault::none);
  EXPECT_EQ(this->device_->take_misses(),
            (std::vector{this->write(11), this->read(12), this->write(14), this->read(11)}));
  this->learn(this->page(11));
  this->learn(this->page(12));
  this->learn(this->page(14));
  ASSERT_EQ(this->take(), 4U);
  this->expect_segments(this->batch_[0], {this->buffer(11)});
  this->expect_segments(this->batch_[1], {this->buffer(12), this->buffer(13), this->buffer(14)});
  EXPECT_EQ(this->batch_[1].readable, 1U);
  EXPECT_EQ(this->batch_[1].writable, 2U);
  this->expect_segments(this->batch_[2], {this->buffer(13)});
  this->expect_segments(this->batch_[3], {this->buffer(11)});
}

TYPED_TEST(TranslatedRing, ABufferOverSeveralPagesAsksForAllOfThem) {
  this->start();
  this->learn(this->page(11));
  this->send({{.address = Iova(this->page(10).value() + 50), .length = 3 * kPage}});
  this->expect_waits({this->read(10), this->read(12), this->read(13)});
  for (const std::uint64_t n : {10U, 13U}) this->learn(this->page(n));
  // A page elsewhere in the guest's memory.
  auto moved = translation(this->page(30), kPage);
  moved.iova = this->page(12);
  ASSERT_TRUE(this->iotlb_.update(moved, *this->memory_.map()));
  ASSERT_TRUE(this->device_->replace_map(this->known()));
  ASSERT_EQ(this->take(), 1U);
  const auto segments = this->batch_.all(this->batch_[0]);
  const auto addresses = this->batch_.addresses(this->batch_[0]);
  ASSERT_EQ(segments.size(), 3U);
  EXPECT_EQ(addresses[0], Iova(this->page(10).value() + 50));
  EXPECT_EQ(segments[0].size(), 2 * kPage - 50);
  EXPECT_EQ(addresses[1], this->page(12));
  EXPECT_EQ(segments[1].to_iovec().iov_base,
            this->memory_.at(Iova(this->page(30).value() - kApart), 1).to_iovec().iov_base);
  EXPECT_EQ(addresses[2], this->page(13));
  EXPECT_EQ(segments[2].size(), 50U);
}

TYPED_TEST(TranslatedRing, AnIndirectTableIsAskedForAndThenWhatItNames) {
  this->start({Feature::indirect_desc});
  this->send({this->buffer(10), this->buffer(11)}, {this->buffer(12)});
  this->expect_waits({this->read(this->kTables)});
  this->learn(this->page(this->kTables), indirect_bytes(this->kEntries));
  this->learn(this->page(11));
  this->expect_waits({this->read(10), this->write(12)});
  this->learn(this->page(10));
  this->learn(this->page(12));
  ASSERT_EQ(this->take(), 1U);
  this->expect_segments(this->batch_[0], {this->buffer(10), this->buffer(11), this->buffer(12)});
}

TYPED_TEST(TranslatedRing, LooksAheadIntoIndirectTables) {
  this->start({Feature::indirect_desc});
  this->learn(this->page(this->kTables), indirect_bytes(this->kEntries));
  this->send({this->buffer(10)});
  this->send({this->buffer(11), this->buffer(12)});
  this->send({this->buffer(13)}, {this->buffer(14)});
  this->expect_waits({this->read(10), this->read(11), this->read(12), this->read(13), this->write(14)});
}

TYPED_TEST(TranslatedRing, WhatTheIommuDeniesIsAFault) {
  this->start();
  this->learn(this->page(10), kPage, Access::read);
  this->send({this->buffer(10)});
  this->send({}, {this->buffer(10)});
  EXPECT_EQ(this->take(), 1U);
  EXPECT_EQ(this->device_->fault(), RingFault::access_denied);
}

TYPED_TEST(TranslatedRing, WhatTheIommuDeniesIsAFaultAlsoWhereTheRestIsNotKnown) {
  this->start();
  this->learn(this->page(11), kPage, Access::none);
  this->send({this->buffer(10), this->buffer(11)});
  EXPECT_EQ(this->take(), 0U);
  EXPECT_EQ(this->device_->fault(), RingFault::access_denied);
}

TYPED_TEST(TranslatedRing, ABufferThatWrapsIsAFault) {
  this->start();
  this->send({{.address = Iova(~0ULL - 4), .length = 100}});
  EXPECT_EQ(this->take(), 0U);
  EXPECT_EQ(this->device_->fault(), RingFault::outside_memory);
  EXPECT_TRUE(this->device_->take_misses().empty());
}

TYPED_TEST(TranslatedRing, WhatIsWrongBehindAChainThatWaitsCountsOnceItIsReached) {
  for (const bool wraps : {true, false}) {
    this->device_.reset();
    this->iotlb_.clear();
    this->start();
    this->learn(this->page(11), kPage, Access::read);
    this->send({this->buffer(10)});
    this->send({wraps ? DriverBuffer{.address = Iova(~0ULL - 4), .length = 100} : this->buffer(12)},
               {this->buffer(wraps ? 12 : 11)});
    EXPECT_EQ(this->take(), 0U);
    EXPECT_EQ(this->device_->fault(), RingFault::none);
    this->device_->take_misses();
    this->learn(this->page(10));
    EXPECT_EQ(this->take(), 1U);
    EXPECT_EQ(this->device_->fault(), wraps ? RingFault::outside_memory : RingFault::access_denied);
  }
}

TYPED_TEST(TranslatedRing, AsksForNoMoreThanItsBound) {
  this->start();
  this->send({{.address = Iova(0), .length = 0xffff'ffff}, {.address = Iova(1ULL << 40), .length = 0xffff'ffff}});
  this->send({this->buffer(10)});
  EXPECT_EQ(this->take(), 0U);
  EXPECT_EQ(this->device_->fault(), RingFault::none);
  EXPECT_EQ(this->device_->take_misses().size(), memory::MemoryMap::kMaxMisses);
}

/// However much of a chain is known, what it takes up is bounded while it waits too.
TYPED_TEST(TranslatedRing, AChainThatLacksSomethingIsBoundedAsAnyOther) {
  this->start();
  constexpr std::uint64_t kPages = 1000;
  constexpr std::uint64_t kMany = 1000;  // the first of them
  // All lead to one page, so that none continues another; the one behind them is not known.
  for (std::uint64_t n = 0; n < kPages; ++n) {
    auto one = translation(this->page(10), kPage, Access::read);
    one.iova = this->page(kMany + n);
    ASSERT_TRUE(this->iotlb_.update(one, *this->memory_.map()));
  }
  ASSERT_TRUE(this->device_->replace_map(this->known()));
  const DriverBuffer part{.address = this->page(kMany), .length = (kPages + 1) * kPage};
  this->send({part, part, part});
  EXPECT_EQ(this->take(), 0U);
  EXPECT_EQ(this->device_->fault(), RingFault::chain_too_long);
}

TYPED_TEST(TranslatedRing, WhatWasInFlightIsTakenAgainOnceItIsKnown) {
  this->start();
  this->learn(this->page(10));
  this->send({this->buffer(10)}, {this->buffer(10)});
  ASSERT_EQ(this->take(), 1U);
  this->config_.start = this->device_->state(this->batch_.chains());
  ASSERT_EQ(this->config_.start.in_flight.size(), 1U);
  this->send({this->buffer(11)});
  this->iotlb_.invalidate({.first = this->page(10), .size = kPage});
  this->device_.emplace(value_or_die(TypeParam::start(this->config_, this->known(), Remember::in_flight)));
  this->expect_waits({this->read(10), this->write(10)});
  this->learn(this->page(10));
  ASSERT_EQ(this->take(), 1U);
  EXPECT_EQ(this->batch_[0].again, 1U);
  this->expect_segments(this->batch_[0], {this->buffer(10), this->buffer(10)});
  this->expect_waits({this->read(11)});
  this->learn(this->page(11));
  ASSERT_EQ(this->take(), 1U);
  EXPECT_EQ(this->batch_[0].again, 0U);
}

TEST(TranslatedSplitRing, AHeadBeyondTheTableBehindAChainThatWaitsCountsOnceItIsReached) {
  GuestMemory memory;
  const RingConfig config = memory.make_ring(8);
  memory::Iotlb iotlb;
  const auto learn = [&](std::uint64_t offset, std::uint64_t size) {
    ASSERT_TRUE(iotlb.update({.iova = Iova(GuestMemory::kBase + offset),
                              .size = size,
                              .frontend_va = memory::FrontendVa(GuestMemory::kFrontendBase + offset),
                              .access = Access::read_write},
                             *memory.map()));
  };
  learn(0, kPage);
  auto device = value_or_die(SplitDeviceQueue::start(config, iotlb.map(memory.map())));
  memory.at(config.descriptors, 16)
      .put(0, Descriptor{.address = GuestMemory::kBase + kPage, .length = 1, .flags = 0, .next = 0});
  const auto available = memory.at(config.available, RingAreaSizes::of(Layout::split, config.size).available.bytes);
  available.put<std::uint16_t>(kRingEntries + 2, 8);
  available.put<std::uint16_t>(kRingIndex, 2);
  ChainBatch batch;
  EXPECT_EQ(device.take(batch, 32), 0U);
  EXPECT_EQ(device.fault(), RingFault::none);
  EXPECT_EQ(device.take_misses().size(), 1U);
  learn(kPage, kPage);
  ASSERT_TRUE(device.replace_map(iotlb.map(memory.map())));
  EXPECT_EQ(device.take(batch, 32), 1U);
  EXPECT_EQ(device.fault(), RingFault::head_out_of_range);
}

}  // namespace
}  // namespace causeway::virtio

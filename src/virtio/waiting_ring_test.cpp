// A ring before an IOMMU as its users have it: while a chain lacks an address it waits, and it knows what is in its
// user's hands.

#include "memory/iotlb.h"
#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"
#include "virtio/packed_ring.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/translated_memory.h"

namespace causeway::virtio {
namespace {

using memory::Access, memory::DirtyLog, memory::Iova, memory::IovaRange, memory::Miss;
using testing::GuestMemory, testing::value_or_die;
using testing::kApart, testing::kPage;

constexpr std::uint64_t kBytes = 1 << 20;
constexpr std::uint64_t kRingPages = 4;
constexpr std::uint16_t kEntries = 16;
constexpr std::uint32_t kLength = 100;  ///< of buffers, if nothing else is said

Iova page(std::uint64_t n) {
  return Iova(GuestMemory::kBase + kApart + n * kPage);
}
DriverBuffer buffer(std::uint64_t n, std::uint32_t length = kLength) {
  return {.address = page(n), .length = length};
}
IovaRange whole(std::uint64_t n) {
  return {.first = page(n), .size = kPage};
}
Miss read(std::uint64_t n) {
  return {.at = page(n), .access = Access::read};
}
Miss write(std::uint64_t n) {
  return {.at = page(n), .access = Access::write};
}

/// A driver that knows all addresses, and a ring of this type whose user knows at first only those of the ring.
template <class Ring>
struct Sides {
  Sides(bool packed, bool logs) : is_packed(packed) {
    config = testing::apart(memory.make_ring(kEntries, packed ? FeatureSet{Feature::ring_packed} : FeatureSet{}));
    if (logs) config.log = value_or_die(DirtyLog::map(log_file, 0, kLogBytes));
    memory::Iotlb all;
    testing::learn(all, memory, page(0), kBytes);
    driver.emplace(value_or_die(DriverQueue::start(config, all.map(memory.map()))));
    testing::learn(iotlb, memory, page(0), kRingPages * kPage);
    device.emplace(value_or_die(Ring::start(config, known(), Remember::in_flight)));
  }

  std::shared_ptr<const memory::MemoryMap> known() const { return iotlb.map(memory.map()); }
  void learn(std::uint64_t n, Access access = Access::read_write) {
    testing::learn(iotlb, memory, page(n), kPage, access);
    if (!device->replace_map(known())) throw std::runtime_error("the map is refused");
  }
  void forget(std::uint64_t n) {
    iotlb.invalidate(whole(n));
    if (!device->replace_map(known())) throw std::runtime_error("the map is refused");
  }

  void send(const std::vector<DriverBuffer>& readable, const std::vector<DriverBuffer>& writable = {}) {
    if (!driver->add(readable, writable, 0)) throw std::runtime_error("the ring is full");
    driver->publish();
  }
  /// As no driver of ours does it: descriptor `n` is the chain number `n`, written without regard to what is in flight.
  void send_as(std::uint16_t n, std::uint16_t id, const DriverBuffer& to) {
    const std::uint64_t address = to.address.value();
    if (is_packed) {
      areas(config.descriptors, 16 * kEntries)
          .put(16U * n, PackedDescriptor{.address = address,
                                         .length = to.length,
                                         .id = id,
                                         .flags = static_cast<std::uint16_t>(kDescWrite | kDescAvail)});
      return;
    }
    areas(config.descriptors, 16 * kEntries)
        .put(16U * id, Descriptor{.address = address, .length = to.length, .flags = kDescWrite, .next = 0});
    const auto available = areas(config.available, RingAreaSizes::of(Layout::split, config.size).available.bytes);
    available.put(kRingEntries + 2U * n, id);
    available.put(kRingIndex, static_cast<std::uint16_t>(n + 1));
  }
  memory::GuestSpan areas(Iova at, std::uint64_t bytes) { return memory.at(Iova(at.value() - kApart), bytes); }

  std::uint16_t take(std::uint16_t limit = 32) {
    batch.clear();
    return device->take(batch, limit);
  }
  bool is_marked(std::uint64_t n) const {
    const auto mapping = value_or_die(Mapping::map(log_file, 0, kLogBytes));
    const std::uint64_t bit = GuestMemory::kBase / DirtyLog::kPage + n;
    const auto bits = memory::GuestSpan::over({mapping->data(), mapping->size()});
    return ((bits.template fetch<std::uint8_t>(bit / 8) >> (bit % 8)) & 1) != 0;
  }

  static constexpr std::uint64_t kLogBytes = (GuestMemory::kBase + kBytes) / DirtyLog::kPage / 8;
  bool is_packed;
  GuestMemory memory{kBytes};
  OwnedFd log_file = value_or_die(make_memfd("log", kLogBytes));
  RingConfig config = memory.make_ring(kEntries);
  memory::Iotlb iotlb;
  std::optional<DriverQueue> driver;
  std::optional<Ring> device;
  ChainBatch batch;
};

/// What a test runs on.
template <class RingType, bool kPacked, bool kLogs>
struct Kind {
  using Ring = RingType;
  static constexpr bool kIsPacked = kPacked;
  static constexpr bool kIsLogged = kLogs;
};
template <class Engine>
using Waiting = TranslatedRing<LoggedRing<Engine, Extent::unknown>, true>;
using Kinds =
    ::testing::Types<Kind<Waiting<SplitDeviceQueue>, false, false>, Kind<Waiting<SplitDeviceQueue>, false, true>,
                     Kind<Waiting<PackedDeviceQueue>, true, false>, Kind<Waiting<PackedDeviceQueue>, true, true>,
                     Kind<DeviceQueue, false, false>, Kind<DeviceQueue, true, true>>;
struct KindNames {
  template <class Kind>
  static std::string GetName(int) {  // NOLINT(readability-identifier-naming): GoogleTest's
    return std::string(std::is_same_v<typename Kind::Ring, DeviceQueue> ? "Either" : "") +
           (Kind::kIsPacked ? "Packed" : "Split") + (Kind::kIsLogged ? "Logged" : "");
  }
};

template <class Kind>
struct WaitingRing : ::testing::Test {
  using Side = Sides<typename Kind::Ring>;
  /// Nothing is to be had, though chains are there.
  void expect_waits() {
    EXPECT_TRUE(rig.device->is_waiting());
    EXPECT_FALSE(rig.device->has_available());
    EXPECT_FALSE(rig.device->arm());
    EXPECT_EQ(rig.take(), 0U);
    EXPECT_EQ(rig.device->fault(), RingFault::none);
  }
  bool holds(std::uint64_t n) { return rig.device->holds(whole(n)); }
  void use(const Chain& chain) {
    rig.device->use(chain, 1);
    rig.device->publish();
  }
  Side rig{Kind::kIsPacked, Kind::kIsLogged};
};
TYPED_TEST_SUITE(WaitingRing, Kinds, KindNames);

TYPED_TEST(WaitingRing, AMissMakesItWaitUntilTheMapIsReplaced) {
  auto& sides = this->rig;
  EXPECT_FALSE(sides.device->is_waiting());
  sides.send({}, {buffer(10)});
  EXPECT_TRUE(sides.device->has_available());
  EXPECT_FALSE(sides.device->is_waiting()) << "nobody has looked yet";
  EXPECT_EQ(sides.take(), 0U);
  this->expect_waits();
  EXPECT_EQ(sides.device->take_misses(), std::vector{write(10)});
  EXPECT_EQ(sides.device->take_misses(), std::vector<Miss>());
  sides.send({buffer(11)});
  this->expect_waits();
  EXPECT_EQ(sides.device->take_misses(), std::vector<Miss>()) << "it looks at nothing while it waits";
  sides.learn(10);
  EXPECT_FALSE(sides.device->is_waiting());
  EXPECT_TRUE(sides.device->has_available());
  EXPECT_TRUE(sides.device->arm());
  ASSERT_EQ(sides.take(), 1U);
  EXPECT_EQ(sides.device->take_misses(), std::vector{read(11)});
  this->expect_waits();
  this->use(sides.batch[0]);
}

TYPED_TEST(WaitingRing, AMapThatDoesNotHelpIsAskedAnew) {
  auto& sides = this->rig;
  sides.send({buffer(10)}, {buffer(11)});
  EXPECT_EQ(sides.take(), 0U);
  EXPECT_EQ(sides.device->take_misses(), (std::vector{read(10), write(11)}));
  sides.learn(12);
  EXPECT_TRUE(sides.device->has_available());
  EXPECT_EQ(sides.take(), 0U);
  EXPECT_EQ(sides.device->take_misses(), (std::vector{read(10), write(11)}));
  sides.learn(11);
  EXPECT_EQ(sides.take(), 0U);
  EXPECT_EQ(sides.device->take_misses(), std::vector{read(10)});
  this->expect_waits();
}

TYPED_TEST(WaitingRing, WhatIsBeforeTheChainThatWaitsIsTakenAndCanBeUsed) {
  auto& sides = this->rig;
  sides.learn(10);
  sides.send({}, {buffer(10)});
  sides.send({}, {buffer(11)});
  sides.send({}, {buffer(10, 50)});
  ASSERT_EQ(sides.take(), 1U);
  const Chain first = sides.batch[0];
  EXPECT_EQ(first.writable_bytes, kLength);
  this->expect_waits();
  EXPECT_EQ(sides.device->take_misses(), std::vector{write(11)});
  this->use(first);
  EXPECT_TRUE(sides.driver->reap());
  EXPECT_EQ(sides.is_marked(10), TypeParam::kIsLogged);
  EXPECT_FALSE(sides.is_marked(11));
  this->expect_waits();
  sides.learn(11);
  ASSERT_EQ(sides.take(), 2U);
  EXPECT_EQ(sides.batch[1].writable_bytes, 50U);
  this->use(sides.batch[0]);
  EXPECT_EQ(sides.is_marked(11), TypeParam::kIsLogged);
}

TYPED_TEST(WaitingRing, AChainIsHeldUntilItIsUsed) {
  auto& sides = this->rig;
  for (const std::uint64_t n : {10U, 20U, 21U, 30U}) sides.learn(n);
  sides.send({buffer(10)}, {buffer(20, kPage + 1)});
  sides.send({}, {buffer(30)});
  sides.send({}, {buffer(40)});
  EXPECT_FALSE(this->holds(10)) << "it is not taken";
  ASSERT_EQ(sides.take(), 2U);
  for (const std::uint64_t n : {10U, 20U, 21U, 30U}) EXPECT_TRUE(this->holds(n)) << n;
  for (const std::uint64_t n : {9U, 11U, 19U, 22U}) EXPECT_FALSE(this->holds(n)) << n;
  EXPECT_FALSE(this->holds(40)) << "it waits in the ring";
  EXPECT_TRUE(sides.device->holds({.first = Iova(page(10).value() + kLength - 1), .size = 1}));
  EXPECT_FALSE(sides.device->holds({.first = Iova(page(10).value() + kLength), .size = kPage}));
  EXPECT_TRUE(sides.device->holds({.first = Iova(0), .size = ~std::uint64_t{0}}));
  this->use(sides.batch[1]);
  EXPECT_FALSE(this->holds(30));
  EXPECT_TRUE(this->holds(21));
  sides.forget(20);
  EXPECT_TRUE(this->holds(20)) << "that the map has it no more does not take it out of the user's hands";
  this->use(sides.batch[0]);
  for (const std::uint64_t n : {10U, 20U, 21U}) EXPECT_FALSE(this->holds(n)) << n;
}

TYPED_TEST(WaitingRing, WhatIsPutBackIsNotHeldUntilItIsTakenAgain) {
  auto& sides = this->rig;
  sides.learn(10);
  sides.learn(11);
  sides.send({buffer(10)});
  sides.send({buffer(11)});
  ASSERT_EQ(sides.take(), 2U);
  sides.device->untake(sides.batch.chains().subspan(1));
  EXPECT_TRUE(this->holds(10));
  EXPECT_FALSE(this->holds(11));
  sides.device->use_unwritten(sides.batch.chains().first(1));
  EXPECT_FALSE(this->holds(10));
  sides.forget(11);
  EXPECT_EQ(sides.take(), 0U);
  EXPECT_EQ(sides.device->take_misses(), std::vector{read(11)});
  sides.learn(11);
  ASSERT_EQ(sides.take(), 1U);
  EXPECT_TRUE(this->holds(11));
}

TYPED_TEST(WaitingRing, AChainThatIsMadeAvailableAgainWhileItIsHeldIsAFault) {
  auto& sides = this->rig;
  sides.learn(10);
  sides.learn(11);
  sides.send_as(0, 3, buffer(10));
  ASSERT_EQ(sides.take(), 1U);
  const Chain first = sides.batch[0];
  this->use(first);
  sides.send_as(1, 3, buffer(10));
  ASSERT_EQ(sides.take(), 1U);
  EXPECT_EQ(sides.device->fault(), RingFault::none) << "it was used";
  sides.send_as(2, 3, buffer(11));
  sides.take();
  EXPECT_EQ(sides.device->fault(), RingFault::chain_in_flight);
  EXPECT_TRUE(this->holds(10)) << "its user does not lose sight of what it has";
  EXPECT_FALSE(this->holds(11));
}

TYPED_TEST(WaitingRing, AnyIdThatTheLayoutAllowsIsKnown) {
  auto& sides = this->rig;
  sides.learn(10);
  sides.learn(11);
  const std::uint16_t greatest = TypeParam::kIsPacked ? 0xffff : kEntries - 1;
  sides.send_as(0, greatest, buffer(10));
  sides.send_as(1, 0, buffer(11));
  ASSERT_EQ(sides.take(), 2U);
  EXPECT_EQ(sides.batch[0].id, greatest);
  EXPECT_TRUE(this->holds(10));
  EXPECT_TRUE(this->holds(11));
  this->use(sides.batch[1]);
  EXPECT_TRUE(this->holds(10));
  EXPECT_FALSE(this->holds(11));
  this->use(sides.batch[0]);
  EXPECT_FALSE(this->holds(10));
  EXPECT_EQ(sides.is_marked(10), TypeParam::kIsLogged);
}

TYPED_TEST(WaitingRing, WhatIsDeniedIsAFaultAndNothingIsWaitedFor) {
  auto& sides = this->rig;
  sides.learn(10, Access::read);
  sides.send({}, {buffer(10)});
  EXPECT_EQ(sides.take(), 0U);
  EXPECT_NE(sides.device->fault(), RingFault::none);
  EXPECT_FALSE(sides.device->is_waiting());
  EXPECT_EQ(sides.device->take_misses(), std::vector<Miss>());
  EXPECT_FALSE(this->holds(10));
}

TEST(UntranslatedRing, NeverWaitsAndHoldsNothing) {
  for (const FeatureSet features : {FeatureSet{}, FeatureSet{Feature::ring_packed}}) {
    GuestMemory memory(kBytes);
    const RingConfig config = memory.make_ring(kEntries, features);
    auto driver = value_or_die(DriverQueue::start(config, memory.map()));
    auto device = value_or_die(DeviceQueue::start(config, memory.map(), Remember::in_flight));
    const DriverBuffer here{.address = memory.allocate(kLength), .length = kLength};
    ASSERT_TRUE(driver.add({}, {&here, 1}, 0));
    driver.publish();
    ChainBatch batch;
    ASSERT_EQ(device.take(batch, 1), 1U);
    EXPECT_FALSE(device.is_waiting());
    EXPECT_EQ(device.take_misses(), std::vector<Miss>());
    EXPECT_FALSE(device.holds({.first = here.address, .size = kLength}));
  }
}

/// Random steps against a model: chains come in order, none before its page is known, and what is taken is held.
template <class Ring>
class Model {
 public:
  explicit Model(bool packed) : sides_(packed, false) {}

  void step() {
    const auto n = *rc::gen::inRange<std::uint64_t>(10, 16);
    switch (*rc::gen::inRange(0, 6)) {
      case 0:
        if (sent_.size() + taken_.size() == kEntries) return;
        sides_.send({}, {buffer(n)});
        return sent_.push_back(n);
      case 1:
        sides_.learn(n);
        is_known_[n - 10] = true;
        return;
      case 2:
        sides_.forget(n);
        is_known_[n - 10] = false;
        return;
      case 3:
        return take(*rc::gen::inRange<std::uint16_t>(1, 8));
      case 4:
        return put_back();
      default:
        return use();
    }
  }
  void check() {
    for (std::uint64_t n = 10; n < 16; ++n) {
      const bool is_held = std::ranges::any_of(taken_, [n](const auto& each) { return each.second == n; });
      RC_ASSERT(sides_.device->holds(whole(n)) == is_held);
    }
    RC_ASSERT(sides_.device->fault() == RingFault::none);
  }

 private:
  void take(std::uint16_t limit) {
    const bool was_waiting = sides_.device->is_waiting();
    std::size_t due = 0;
    while (!was_waiting && due < std::min<std::size_t>(limit, sent_.size()) && is_known_[sent_[due] - 10]) ++due;
    const bool must_wait = was_waiting || (due < limit && due < sent_.size());
    std::size_t taken = 0;
    // One look may see less than there is.
    while (const std::uint16_t count = sides_.take(static_cast<std::uint16_t>(limit - taken))) {
      taken += count;
      for (const Chain& chain : sides_.batch.chains()) {
        RC_ASSERT(sides_.batch.addresses(chain)[0] == page(sent_.front()));
        taken_.emplace_back(chain, sent_.front());
        sent_.pop_front();
      }
    }
    RC_ASSERT(taken == due);
    RC_ASSERT(sides_.device->is_waiting() == must_wait);
    const auto misses = sides_.device->take_misses();
    RC_ASSERT(misses.empty() == (was_waiting || !must_wait));
    if (!misses.empty()) RC_ASSERT(misses.front() == write(sent_.front()));
  }
  void put_back() {
    if (taken_.empty()) return;
    sides_.device->untake({&taken_.back().first, 1});
    sent_.push_front(taken_.back().second);
    taken_.pop_back();
  }
  void use() {
    if (taken_.empty()) return;
    sides_.device->use(taken_.front().first, 1);
    sides_.device->publish();
    taken_.pop_front();
    RC_ASSERT(sides_.driver->reap().has_value());
  }

  Sides<Ring> sides_;
  std::deque<std::uint64_t> sent_;  // and not taken: the pages of their buffers
  std::deque<std::pair<Chain, std::uint64_t>> taken_;
  std::array<bool, 6> is_known_{};
};

template <class Ring>
void follow_the_model(bool packed) {
  Model<Ring> model(packed);
  const auto steps = *rc::gen::inRange(1, 200);
  for (int i = 0; i < steps; ++i) {
    model.step();
    model.check();
  }
}

RC_GTEST_PROP(WaitingRings, FollowTheModelWhereTheyAreSplit, ()) {
  follow_the_model<Waiting<SplitDeviceQueue>>(false);
}
RC_GTEST_PROP(WaitingRings, FollowTheModelWhereTheyArePacked, ()) {
  follow_the_model<Waiting<PackedDeviceQueue>>(true);
}

}  // namespace
}  // namespace causeway::virtio

// What is known of an IOMMU, against a model that knows it unit by unit.

#include "memory/iotlb.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "support/guest_memory.h"

namespace causeway::memory {
namespace {

using testing::GuestMemory, testing::value_or_die;

constexpr std::uint64_t kPage = MemoryMap::kIommuPage;
constexpr Iova kAt(0x5'0000'0000);

FrontendVa frontend(std::uint64_t offset) {
  return FrontendVa(GuestMemory::kFrontendBase + offset);
}
const std::byte* host(const GuestSpan& span) {
  return static_cast<const std::byte*>(span.to_iovec().iov_base);
}

/// Two regions of eight pages, which are neighbours in front-end addresses.
struct Known {
  static constexpr std::uint64_t kRegion = 8 * kPage;

  bool update(Iova iova, std::uint64_t size, std::uint64_t offset, Access access = Access::read_write) {
    return iotlb.update({.iova = iova, .size = size, .frontend_va = frontend(offset), .access = access}, *memory.map())
        .has_value();
  }
  std::shared_ptr<const MemoryMap> map() const { return iotlb.map(memory.map()); }
  /// Where in the guest's memory the byte at `iova` is.
  std::optional<std::uint64_t> offset_of(Iova iova, Access access = Access::read) const {
    const auto span = map()->translate(iova, 1, access);
    if (!span) return std::nullopt;
    for (const Region& region : memory.map()->regions()) {
      const auto at = static_cast<std::uint64_t>(host(*span) - region.mapping->data());
      if (at < region.size) return region.iova.value() + at - GuestMemory::kBase;
    }
    return std::nullopt;
  }

  GuestMemory memory{kRegion, 2};
  Iotlb iotlb;
};

Iova after(Iova iova, std::uint64_t bytes) {
  return Iova(iova.value() + bytes);
}

TEST(Iotlb, KnowsWhatItWasToldAndNothingElse) {
  Known known;
  EXPECT_TRUE(known.map()->is_translated());
  EXPECT_FALSE(known.map()->translate(kAt, 1));
  ASSERT_TRUE(known.update(kAt, 2 * kPage, 3 * kPage));
  EXPECT_EQ(known.offset_of(kAt), 3 * kPage);
  EXPECT_EQ(known.offset_of(after(kAt, 2 * kPage - 1)), 5 * kPage - 1);
  EXPECT_FALSE(known.offset_of(after(kAt, 2 * kPage)));
  EXPECT_FALSE(known.offset_of(Iova(kAt.value() - 1)));
  known.iotlb.clear();
  EXPECT_FALSE(known.offset_of(kAt));
  EXPECT_EQ(known.iotlb.size(), 0U);
}

TEST(Iotlb, AMapThatWasMadeDoesNotChange) {
  Known known;
  ASSERT_TRUE(known.update(kAt, kPage, 0));
  const auto before = known.map();
  known.iotlb.invalidate({.first = kAt, .size = kPage});
  EXPECT_TRUE(before->translate(kAt, kPage));
  EXPECT_FALSE(known.map()->translate(kAt, kPage));
}

TEST(Iotlb, RefusesWhatIsEmptyWrapsOrLeadsToNoOneRegionAndKeepsWhatItKnew) {
  Known known;
  ASSERT_TRUE(known.update(kAt, kPage, 0));
  EXPECT_FALSE(known.update(kAt, 0, kPage)) << "empty";
  EXPECT_FALSE(known.update(Iova(~0ULL - kPage + 2), kPage, 0)) << "wraps";
  EXPECT_FALSE(known.update(kAt, ~0ULL, 0)) << "wraps, and is longer than all memory";
  EXPECT_FALSE(known.update(kAt, kPage, 2 * Known::kRegion)) << "behind the last region";
  EXPECT_FALSE(known.update(kAt, kPage, 0ULL - kPage)) << "before the first region";
  EXPECT_FALSE(known.update(kAt, 2 * kPage, 2 * Known::kRegion - kPage)) << "ends behind the last region";
  EXPECT_FALSE(known.update(kAt, 2 * kPage, Known::kRegion - kPage)) << "begins in one region and ends in another";
  EXPECT_FALSE(known.update(kAt, kPage, 0ULL - GuestMemory::kFrontendBase)) << "no front-end address";
  EXPECT_EQ(known.offset_of(kAt), 0U);
  EXPECT_EQ(known.iotlb.size(), 1U);
}

TEST(Iotlb, TakesTheLastByteOfTheAddressSpace) {
  Known known;
  const Iova top(0 - kPage);
  ASSERT_TRUE(known.update(top, kPage, 0));
  EXPECT_EQ(known.offset_of(Iova(~0ULL)), kPage - 1);
  EXPECT_FALSE(known.map()->translate(top, kPage + 1));
  known.iotlb.invalidate({.first = Iova(~0ULL), .size = 1});
  EXPECT_FALSE(known.offset_of(Iova(~0ULL)));
  EXPECT_EQ(known.offset_of(Iova(~0ULL - 1)), kPage - 2);
}

TEST(Iotlb, RunsThatContinueEachOtherAreOneEntry) {
  Known known;
  ASSERT_TRUE(known.update(kAt, kPage, 0));
  ASSERT_TRUE(known.update(after(kAt, 2 * kPage), kPage, 2 * kPage));
  EXPECT_EQ(known.iotlb.size(), 2U);
  ASSERT_TRUE(known.update(after(kAt, kPage), kPage, kPage));
  EXPECT_EQ(known.iotlb.size(), 1U);
  EXPECT_TRUE(known.map()->translate(kAt, 3 * kPage, Access::read_write));
  ASSERT_TRUE(known.update(after(kAt, 3 * kPage), kPage, 3 * kPage, Access::read));
  EXPECT_EQ(known.iotlb.size(), 2U) << "of another access";
  ASSERT_TRUE(known.update(after(kAt, 4 * kPage), kPage, 6 * kPage, Access::read));
  EXPECT_EQ(known.iotlb.size(), 3U) << "elsewhere";
}

/// A Device has each region at addresses of its own, which need not be neighbours where our mappings are.
TEST(Iotlb, ARunEndsWithItsRegion) {
  const GuestMemory memory(kPage, 32);
  const auto& regions = memory.map()->regions();
  for (const Region& low : regions) {
    const auto high = std::ranges::find_if(
        regions, [&](const Region& region) { return region.mapping->data() == low.mapping->data() + low.size; });
    if (high == regions.end()) continue;
    for (const bool low_first : {true, false}) {
      Iotlb iotlb;
      const Translation first{.iova = kAt, .size = kPage, .frontend_va = low.frontend_va, .access = Access::read};
      const Translation second{
          .iova = after(kAt, kPage), .size = kPage, .frontend_va = high->frontend_va, .access = Access::read};
      ASSERT_TRUE(iotlb.update(low_first ? first : second, *memory.map()));
      ASSERT_TRUE(iotlb.update(low_first ? second : first, *memory.map()));
      EXPECT_EQ(iotlb.size(), 2U);
      Translator translator(iotlb.map(memory.map()));
      Translator device(memory.map());
      EXPECT_TRUE(translator.translate(kAt.value(), 2 * kPage, Access::read,
                                       [&](const GuestSpan& piece) { EXPECT_TRUE(device.iova_of(piece)); }));
    }
    return;
  }
  FAIL() << "no two of these regions are neighbours in our mapping";
}

TEST(Iotlb, AnUpdateTakesThePlaceOfWhatItOverlaps) {
  Known known;
  ASSERT_TRUE(known.update(kAt, 6 * kPage, 0));
  ASSERT_TRUE(known.update(after(kAt, 2 * kPage), kPage, Known::kRegion, Access::read));
  EXPECT_EQ(known.iotlb.size(), 3U);
  EXPECT_EQ(known.offset_of(after(kAt, 2 * kPage - 1)), 2 * kPage - 1);
  EXPECT_EQ(known.offset_of(after(kAt, 2 * kPage)), Known::kRegion);
  EXPECT_FALSE(known.offset_of(after(kAt, 2 * kPage), Access::write));
  EXPECT_EQ(known.offset_of(after(kAt, 3 * kPage), Access::write), 3 * kPage);
  ASSERT_TRUE(known.update(Iova(kAt.value() - kPage), 8 * kPage, Known::kRegion));
  EXPECT_EQ(known.iotlb.size(), 1U);
  EXPECT_EQ(known.offset_of(kAt), Known::kRegion + kPage);
}

TEST(Iotlb, AnInvalidationLeavesWhatLiesAroundIt) {
  Known known;
  ASSERT_TRUE(known.update(kAt, 4 * kPage, 0));
  ASSERT_TRUE(known.update(after(kAt, 4 * kPage), 2 * kPage, Known::kRegion));
  known.iotlb.invalidate({.first = after(kAt, 100), .size = 1});
  EXPECT_EQ(known.iotlb.size(), 3U);
  EXPECT_EQ(known.offset_of(after(kAt, 99)), 99U);
  EXPECT_FALSE(known.offset_of(after(kAt, 100)));
  EXPECT_EQ(known.offset_of(after(kAt, 101)), 101U);
  known.iotlb.invalidate({.first = after(kAt, kPage), .size = 4 * kPage});
  EXPECT_EQ(known.offset_of(after(kAt, kPage - 1)), kPage - 1);
  EXPECT_FALSE(known.offset_of(after(kAt, kPage)));
  EXPECT_FALSE(known.offset_of(after(kAt, 5 * kPage - 1)));
  EXPECT_EQ(known.offset_of(after(kAt, 5 * kPage)), Known::kRegion + kPage);
  known.iotlb.invalidate({.first = Iova(0), .size = kAt.value()});
  EXPECT_EQ(known.iotlb.size(), 3U) << "what lies elsewhere";
  known.iotlb.invalidate({.first = Iova(0), .size = ~0ULL});
  EXPECT_EQ(known.iotlb.size(), 0U);
}

TEST(Iotlb, ForgetsTheOldestInTurnToHaveRoom) {
  Known known;
  // All lead to one page, so that none continues another.
  const auto nth = [](std::uint64_t n) { return after(kAt, n * kPage); };
  const auto update = [&](std::uint64_t n) {
    return value_or_die(known.iotlb.update(
        {.iova = nth(n), .size = kPage, .frontend_va = frontend(0), .access = Access::read}, *known.memory.map()));
  };
  for (std::uint64_t n = 0; n < Iotlb::kMaxEntries; ++n) ASSERT_FALSE(update(n)) << n;
  EXPECT_FALSE(update(5)) << "in the place of what was known";
  for (std::uint64_t n = 0; n < 3; ++n) {
    const auto forgotten = update(Iotlb::kMaxEntries + n);
    ASSERT_TRUE(forgotten);
    EXPECT_EQ(forgotten->first, nth(n));
    EXPECT_EQ(forgotten->size, kPage);
    EXPECT_EQ(known.iotlb.size(), Iotlb::kMaxEntries);
    EXPECT_FALSE(known.offset_of(nth(n)));
    EXPECT_EQ(known.offset_of(nth(Iotlb::kMaxEntries + n)), 0U);
  }
  // Not that which was told just now, though its turn has come.
  const auto forgotten = update(2);
  ASSERT_TRUE(forgotten);
  EXPECT_EQ(forgotten->first, nth(3));
  known.iotlb.invalidate({.first = nth(4), .size = kPage});
  ASSERT_FALSE(update(4));
  const auto next = update(3);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->first, nth(4));
  EXPECT_EQ(known.offset_of(nth(3)), 0U);
}

TEST(Iotlb, ForgetsWhatLeadsToMemoryThatIsGone) {
  Known known;
  ASSERT_TRUE(known.update(kAt, kPage, Known::kRegion - kPage));
  ASSERT_TRUE(known.update(after(kAt, kPage), kPage, Known::kRegion));
  ASSERT_TRUE(known.update(after(kAt, 8 * kPage), 8 * kPage, 0));
  known.iotlb.keep_within(*known.memory.map());
  EXPECT_TRUE(known.offset_of(kAt));
  EXPECT_TRUE(known.offset_of(after(kAt, kPage)));
  EXPECT_TRUE(known.offset_of(after(kAt, 15 * kPage)));
  known.iotlb.keep_within(*value_or_die(MemoryMap::make({known.memory.map()->regions().front()})));
  EXPECT_TRUE(known.offset_of(kAt));
  EXPECT_FALSE(known.offset_of(after(kAt, kPage)));
  EXPECT_TRUE(known.offset_of(after(kAt, 15 * kPage)));
  known.iotlb.keep_within(*MemoryMap::empty());
  EXPECT_EQ(known.iotlb.size(), 0U);
}

TEST(ListMissing, StopsAtItsBoundAndNamesNoPageTwice) {
  Known known;
  std::vector<Miss> misses;
  ASSERT_TRUE(known.map()->list_missing(after(kAt, 10), 3 * kPage, Access::read, misses));
  const auto miss = [](std::uint64_t n) { return Miss{.at = after(kAt, n * kPage), .access = Access::read}; };
  EXPECT_EQ(misses, (std::vector{miss(0), miss(1), miss(2), miss(3)}));
  ASSERT_TRUE(known.map()->list_missing(after(kAt, kPage), kPage, Access::read, misses));
  EXPECT_EQ(misses.size(), 4U);
  ASSERT_TRUE(known.map()->list_missing(after(kAt, kPage), kPage, Access::write, misses));
  EXPECT_EQ(misses.size(), 5U) << "for another use";
  ASSERT_TRUE(known.map()->list_missing(Iova(0), ~0ULL, Access::read, misses));
  EXPECT_EQ(misses.size(), MemoryMap::kMaxMisses);
  misses.clear();
  ASSERT_TRUE(known.map()->list_missing(Iova(~0ULL), 1, Access::read, misses));
  EXPECT_EQ(misses, (std::vector{Miss{.at = Iova(0 - kPage), .access = Access::read}}));
}

/// What is known, in units that are smaller than a page.
class Model {
 public:
  static constexpr std::uint64_t kUnit = 1024;
  static constexpr std::uint64_t kUnits = 64;
  struct Unit {
    const std::byte* host;
    Access access;
    std::uint64_t region;  // a run does not go on into another one
  };

  void update(std::uint64_t first, std::uint64_t count, const std::byte* host, Access access, std::uint64_t region) {
    for (std::uint64_t i = 0; i < count; ++i) {
      units_[first + i] = Unit{.host = host + i * kUnit, .access = access, .region = region};
    }
  }
  void invalidate(std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) units_[first + i].reset();
  }
  /// Of a byte by its offset.
  std::optional<Unit> at(std::uint64_t offset) const {
    if (offset / kUnit >= kUnits) return std::nullopt;
    auto unit = units_[offset / kUnit];
    if (unit) unit->host += offset % kUnit;
    return unit;
  }
  const std::byte* usable(std::uint64_t offset, Access access) const {
    const auto unit = at(offset);
    return unit && allows(unit->access, access) ? unit->host : nullptr;
  }
  std::size_t runs() const {
    std::size_t count = 0;
    for (std::uint64_t i = 0; i < kUnits; ++i) {
      if (!units_[i]) continue;
      const auto before = i == 0 ? std::nullopt : units_[i - 1];
      if (!before || before->host + kUnit != units_[i]->host || before->access != units_[i]->access ||
          before->region != units_[i]->region) {
        ++count;
      }
    }
    return count;
  }

 private:
  std::array<std::optional<Unit>, kUnits> units_;
};

/// Both, from an address on.
struct Pair {
  explicit Pair(Iova a_base) : base(a_base) {}

  void change() {
    const auto first = *rc::gen::inRange<std::uint64_t>(0, Model::kUnits);
    const auto longest = std::min<std::uint64_t>(Model::kUnits - first, 24);
    const auto count = *rc::gen::inRange<std::uint64_t>(1, longest + 1);
    const Iova at = after(base, first * Model::kUnit);
    if (*rc::gen::inRange(0, 4) == 0) {
      model.invalidate(first, count);
      known.iotlb.invalidate({.first = at, .size = count * Model::kUnit});
      return;
    }
    // More often than by chance what continues a neighbour.
    const auto offset = *rc::gen::oneOf(rc::gen::just(first * Model::kUnit % (2 * Known::kRegion)),
                                        rc::gen::map(rc::gen::inRange<std::uint64_t>(0, Model::kUnits),
                                                     [](std::uint64_t unit) { return unit * Model::kUnit; }));
    const auto access = *rc::gen::element(Access::none, Access::read, Access::write, Access::read_write);
    const auto region = offset / Known::kRegion;
    const bool fits = offset % Known::kRegion + count * Model::kUnit <= Known::kRegion;
    RC_ASSERT(known.update(at, count * Model::kUnit, offset, access) == fits);
    if (!fits) return;
    const std::byte* start = known.memory.map()->regions()[region].mapping->data() + offset % Known::kRegion;
    model.update(first, count, start, access, region);
  }

  void compare() const {
    const auto from = *rc::gen::inRange<std::uint64_t>(0, Model::kUnit * Model::kUnits);
    const auto size = *rc::gen::inRange<std::uint64_t>(1, 24 * Model::kUnit);
    const auto access = *rc::gen::element(Access::read, Access::write, Access::read_write);
    compare_one_run(from, size, access);
    compare_pieces(from, size, access);
    compare_missing(from, size, access);
    RC_ASSERT(known.iotlb.size() == model.runs());
  }

 private:
  bool wraps(std::uint64_t from, std::uint64_t size) const { return base.value() + from + (size - 1) < base.value(); }

  void compare_one_run(std::uint64_t from, std::uint64_t size, Access access) const {
    const std::byte* first = model.usable(from, access);
    bool is_run = first != nullptr;
    for (std::uint64_t i = 0; is_run && i < size; ++i) is_run = model.usable(from + i, access) == first + i;
    const auto span = known.map()->translate(after(base, from), size, access);
    RC_ASSERT(span.has_value() == is_run);
    if (span) RC_ASSERT(host(*span) == first && span->size() == size);
  }

  void compare_pieces(std::uint64_t from, std::uint64_t size, Access access) const {
    Translator translator(known.map());
    std::uint64_t at = from;
    const bool is_usable = translator.translate(base.value() + from, size, access, [&](const GuestSpan& piece) {
      for (std::uint64_t i = 0; i < piece.size(); ++i) RC_ASSERT(model.usable(at + i, access) == host(piece) + i);
      at += piece.size();
    });
    bool expected = !wraps(from, size);
    for (std::uint64_t i = 0; expected && i < size; ++i) expected = model.usable(from + i, access) != nullptr;
    RC_ASSERT(is_usable == expected);
    if (is_usable) RC_ASSERT(at == from + size);
  }

  void compare_missing(std::uint64_t from, std::uint64_t size, Access access) const {
    if (wraps(from, size)) return;
    std::vector<Miss> misses;
    const bool is_allowed = known.map()->list_missing(after(base, from), size, access, misses);
    std::vector<Miss> lacking;
    bool is_denied = false, is_denied_behind_nothing = false;
    for (std::uint64_t i = 0; i < size; ++i) {
      const Miss miss{.at = Iova((base.value() + from + i) & ~(kPage - 1)), .access = access};
      const bool page_lacks = !lacking.empty() && lacking.back() == miss;
      const auto unit = model.at(from + i);
      if (!unit && !page_lacks) lacking.push_back(miss);
      if (!unit || allows(unit->access, access)) continue;
      is_denied = true;
      // A page that is asked for whole is not looked at further.
      is_denied_behind_nothing |= !page_lacks;
    }
    if (is_allowed) {
      RC_ASSERT(!is_denied_behind_nothing);
      RC_ASSERT(misses == lacking);
    } else {
      RC_ASSERT(is_denied);
    }
  }

 public:
  Iova base;
  Known known;
  Model model;
};

RC_GTEST_PROP(Iotlb, KnowsTheSameAsAModelOfUnits, ()) {
  // Also where the address space ends.
  Pair pair(*rc::gen::element(kAt, Iova(0), Iova(0 - Model::kUnit * Model::kUnits)));
  const auto steps = *rc::gen::inRange(1, 40);
  for (int i = 0; i < steps; ++i) {
    pair.change();
    pair.compare();
  }
}

}  // namespace
}  // namespace causeway::memory

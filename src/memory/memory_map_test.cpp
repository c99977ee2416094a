#include "memory/memory_map.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "support/guest_memory.h"

namespace causeway::memory {
namespace {

using testing::GuestMemory, testing::make_region, testing::value_or_die;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kFar = 0x7f00'0000'0000;

TEST(Region, RefusesWhatIsEmptyWrapsOrIsNotInItsFile) {
  const auto map = [](std::uint64_t iova, std::uint64_t va, std::uint64_t size, std::uint64_t offset) {
    return Region::map(Iova(iova), FrontendVa(va), size, value_or_die(make_memfd("r", kPage)), offset);
  };
  EXPECT_TRUE(map(0, kFar, kPage, 0));
  EXPECT_FALSE(map(0, kFar, 0, 0)) << "empty";
  EXPECT_FALSE(map(~0ULL - 10, kFar, kPage, 0)) << "wraps in guest addresses";
  EXPECT_FALSE(map(0, ~0ULL - 10, kPage, 0)) << "wraps in front-end addresses";
  EXPECT_FALSE(map(0, kFar, 2 * kPage, 0)) << "longer than its file";
  EXPECT_FALSE(map(0, kFar, kPage, kPage)) << "behind its file";
}

TEST(MemoryMap, RefusesOverlapInEitherAddressSpace) {
  EXPECT_FALSE(MemoryMap::make({make_region(0, 2 * kPage, kFar), make_region(kPage, kPage, 2 * kFar)}));
  EXPECT_FALSE(MemoryMap::make({make_region(0, 2 * kPage, kFar), make_region(8 * kPage, kPage, kFar + kPage)}));
  EXPECT_TRUE(MemoryMap::make({make_region(0, kPage, kFar), make_region(kPage, kPage, kFar + kPage)}));
}

TEST(MemoryMap, Holds509Regions) {
  std::vector<Region> regions;
  for (std::uint64_t i = 0; i < 509; ++i) regions.push_back(make_region(2 * i * kPage, kPage, kFar + 2 * i * kPage));
  const auto map = value_or_die(MemoryMap::make(std::move(regions)));
  for (std::uint64_t i = 0; i < 509; ++i) {
    EXPECT_TRUE(map->translate(Iova(2 * i * kPage), kPage));
    EXPECT_FALSE(map->translate(Iova((2 * i + 1) * kPage), 1)) << "between two regions";
    EXPECT_EQ(map->iova_of(FrontendVa(kFar + 2 * i * kPage + 5)), Iova(2 * i * kPage + 5));
  }
  EXPECT_FALSE(map->iova_of(FrontendVa(kFar + kPage)));
}

TEST(MemoryMap, DoesNotTranslateAcrossRegionsThatAreApartInOurMemory) {
  const GuestMemory memory(kPage, 2);
  // Two files may be mapped as neighbours by chance; then the span is one run of bytes, else it must be refused.
  const auto span = memory.map()->translate(Iova(GuestMemory::kBase + kPage - 8), 16);
  if (span) {
    EXPECT_EQ(span->size(), 16U);
  }
  EXPECT_FALSE(memory.map()->translate(Iova(GuestMemory::kBase + 2 * kPage - 8), 16)) << "behind the last region";
  EXPECT_FALSE(memory.map()->translate(Iova(~0ULL - 3), 8)) << "wraps";
}

RC_GTEST_PROP(Translator, FindsTheSameBytesAsAReadOfTheRegions, ()) {
  static const GuestMemory memory(kPage, 4);
  const auto offset = *rc::gen::inRange<std::uint64_t>(0, 5 * kPage);
  const auto size = *rc::gen::inRange<std::uint64_t>(0, 3 * kPage);
  static Translator translator(memory.map());
  std::uint64_t covered = 0;
  std::uint64_t at = offset;
  const bool inside = translator.translate(GuestMemory::kBase + offset, size, Access::read, [&](GuestSpan piece) {
    // Each piece is what its own region says of these addresses.
    const auto expected = memory.map()->translate(Iova(GuestMemory::kBase + at), piece.size());
    const bool same = piece.size() == 0 || (expected && piece.to_iovec().iov_base == expected->to_iovec().iov_base);
    RC_ASSERT(same);
    covered += piece.size();
    at += piece.size();
  });
  RC_ASSERT(inside == (size == 0 || offset + size <= 4 * kPage));
  if (inside) RC_ASSERT(covered == size);
}

TEST(GuestSpan, ReadsAndWritesAtAnyAlignment) {
  GuestMemory memory;
  const auto span = memory.at(memory.allocate(64), 64);
  span.put<std::uint32_t>(3, 0x01020304);
  EXPECT_EQ(span.fetch<std::uint32_t>(3), 0x01020304U);
  span.store<std::uint16_t>(8, 7, std::memory_order_relaxed);
  EXPECT_EQ(span.load<std::uint16_t>(8, std::memory_order_relaxed), 7);
}

}  // namespace
}  // namespace causeway::memory

#include "memory/dirty_log.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "support/guest_memory.h"

namespace causeway::memory {
namespace {

using testing::make_region, testing::value_or_die;

constexpr std::uint64_t kBytes = 64;

TEST(DirtyLog, RefusesWhatIsEmptyOrNotInItsFile) {
  const auto file = value_or_die(make_memfd("log", 4096));
  EXPECT_TRUE(DirtyLog::map(file, 64, 4096 - 64));
  EXPECT_FALSE(DirtyLog::map(file, 0, 0));
  EXPECT_FALSE(DirtyLog::map(file, 64, 4096));
  EXPECT_EQ(DirtyLog::map(file, ~0ULL - 5, 4096).error().code, Errc::peer_violation);
}

TEST(DirtyLog, CoversMemoryUpToItsLastPage) {
  const auto file = value_or_die(make_memfd("log", 4096));
  const auto log = value_or_die(DirtyLog::map(file, 0, 2));  // 16 pages
  const auto covers = [&](std::uint64_t iova, std::uint64_t pages) {
    return log->covers(*value_or_die(MemoryMap::make({make_region(iova, pages * DirtyLog::kPage, 0x7f00'0000'0000)})));
  };
  EXPECT_TRUE(covers(0, 16));
  EXPECT_FALSE(covers(0, 17));
  EXPECT_TRUE(covers(15 * DirtyLog::kPage, 1));
  EXPECT_FALSE(covers(16 * DirtyLog::kPage, 1));
}

RC_GTEST_PROP(DirtyLog, MarksThePagesWithTheBytesAndNoOther, ()) {
  const auto file = value_or_die(make_memfd("log", 4096));
  const auto log = value_or_die(DirtyLog::map(file, 8, kBytes));
  const auto mapping = value_or_die(Mapping::map(file, 0, 4096));
  std::set<std::uint64_t> expected;
  const auto count = *rc::gen::inRange(1, 20);
  for (int i = 0; i < count; ++i) {
    // Some lie behind the log.
    const auto at = *rc::gen::inRange<std::uint64_t>(0, 9 * kBytes * DirtyLog::kPage);
    const auto bytes = *rc::gen::inRange<std::uint64_t>(0, 40 * DirtyLog::kPage);
    log->mark(Iova(at), bytes);
    for (std::uint64_t page = at / DirtyLog::kPage; bytes != 0 && page <= (at + bytes - 1) / DirtyLog::kPage; ++page) {
      if (page < 8 * kBytes) expected.insert(page);
    }
  }
  std::set<std::uint64_t> found;
  const auto bits = GuestSpan::over({mapping->data(), mapping->size()});
  for (std::uint64_t bit = 0; bit < 8 * 4096; ++bit) {
    if (((bits.fetch<std::uint8_t>(bit / 8) >> (bit % 8)) & 1) != 0) found.insert(bit - 64);
  }
  RC_ASSERT(found == expected);
}

}  // namespace
}  // namespace causeway::memory

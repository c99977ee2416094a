#include "blk/overlap_filter.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace causeway::blk {
namespace {

using Range = std::pair<std::uint64_t, std::uint64_t>;  // offset, length

bool intersect(const Range& a, const Range& b) {
  return a.first < b.first + b.second && b.first < a.first + a.second;
}

Range any_range() {
  const auto offset = 512 * *rc::gen::inRange<std::uint64_t>(0, 1 << 20);
  return {offset, 512 * *rc::gen::element<std::uint64_t>(1, 8, 256, 5000)};
}

RC_GTEST_PROP(OverlapFilter, NeverCallsFreeWhatIsTaken, ()) {
  OverlapFilter filter;
  std::vector<Range> entered;
  for (int i = 0; i < 50; ++i) {
    if (!entered.empty() && *rc::gen::arbitrary<bool>()) {
      filter.leave(entered.back().first, entered.back().second);
      entered.pop_back();
    } else {
      entered.push_back(any_range());
      filter.enter(entered.back().first, entered.back().second);
    }
    const Range asked = any_range();
    const bool is_taken = std::ranges::any_of(entered, [&](const Range& other) { return intersect(asked, other); });
    if (is_taken) RC_ASSERT(!filter.is_free(asked.first, asked.second));
    if (entered.empty()) RC_ASSERT(filter.is_free(asked.first, asked.second));
  }
}

TEST(OverlapFilter, NeighboursAreFree) {
  OverlapFilter filter;
  filter.enter(4096, 4096);
  EXPECT_TRUE(filter.is_free(0, 4096));
  EXPECT_TRUE(filter.is_free(8192, 4096));
  EXPECT_FALSE(filter.is_free(8191, 1));
}

}  // namespace
}  // namespace causeway::blk

#include "vfio/capabilities.h"

#include "vfio/test_support.h"

#include <gtest/gtest.h>

namespace causeway::vfio {
namespace {

constexpr std::uint16_t kSparse = VFIO_REGION_INFO_CAP_SPARSE_MMAP;

Answer<vfio_region_info> answer() {
  return Answer(vfio_region_info{});
}
Result<std::vector<Capability>> list(const Answer<vfio_region_info>& from) {
  return list_capabilities(from.bytes(), load<vfio_region_info>(from.bytes())->cap_offset);
}

TEST(Capabilities, NoneWhereTheListBeginsAtZero) {
  const auto none = list(answer());
  ASSERT_TRUE(none);
  EXPECT_TRUE(none->empty());
}

TEST(Capabilities, AreListedInOrder) {
  const auto with_three = answer().capability(3, 1, {}).pairs(kSparse, 0, {}).capability(7, 2, {});
  const auto listed = list(with_three);
  ASSERT_TRUE(listed);
  ASSERT_EQ(listed->size(), 3U);
  EXPECT_EQ(listed->front().id, 3);
  EXPECT_EQ(listed->back().version, 2);
  EXPECT_EQ(find_capability(*listed, kSparse), &(*listed)[1]);
  EXPECT_EQ(find_capability(*listed, 99), nullptr);
}

TEST(Capabilities, RefusesListThatLeavesTheAnswer) {
  for (const std::uint32_t next : {0x28U, 0x21U, ~0U}) {
    const auto listed = list(answer().capability(3, 1, {}).link(next));
    ASSERT_FALSE(listed) << next;
    EXPECT_EQ(listed.error().code, Errc::peer_violation);
  }
}

TEST(Capabilities, RefusesListThatGoesRound) {
  const auto listed = list(answer().capability(3, 1, {}).capability(4, 1, {}).link(sizeof(vfio_region_info)));
  ASSERT_FALSE(listed);
  EXPECT_EQ(listed.error().code, Errc::peer_violation);
}

TEST(Capabilities, ReadsPairs) {
  const auto bytes = answer().pairs(kSparse, 2, {1, 2, 3, 4});
  const auto pairs = read_pairs(list(bytes)->front());
  ASSERT_TRUE(pairs);
  EXPECT_EQ(*pairs, (std::vector<NumberPair>{{1, 2}, {3, 4}}));
}

TEST(Capabilities, RefusesMorePairsThanFit) {
  for (const std::uint32_t count : {3U, 0xffffffffU}) {
    const auto bytes = answer().pairs(kSparse, count, {1, 2, 3, 4});
    EXPECT_FALSE(read_pairs(list(bytes)->front())) << count;
  }
  const auto cut_off = answer().capability(kSparse, 1, {});
  EXPECT_FALSE(read_pairs(list(cut_off)->front()));
}

TEST(Capabilities, RefusesPairsOfAnotherVersion) {
  const auto newer = answer().capability(kSparse, 2, bytes_of(std::uint64_t{0}));
  const auto pairs = read_pairs(list(newer)->front());
  ASSERT_FALSE(pairs);
  EXPECT_EQ(pairs.error().code, Errc::not_supported);
}

}  // namespace
}  // namespace causeway::vfio

#include "vfio/dma_limits.h"

#include "vfio/test_support.h"

#include <gtest/gtest.h>

#include <array>

namespace causeway::vfio {
namespace {

constexpr std::uint16_t kRanges = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
constexpr std::uint64_t kPage = 0x1000;
constexpr std::uint64_t kMib = 1 << 20;

Answer<vfio_iommu_type1_info> answer() {
  vfio_iommu_type1_info head{};
  head.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
  head.iova_pgsizes = kPage | 2 * kMib;
  return Answer(head);
}

memory::Region make_region(std::uint64_t iova, std::uint64_t size) {
  return *memory::Region::map(memory::Iova(iova), memory::FrontendVa(iova), size, *make_memfd("test", size), 0);
}

/// 39 bits but for the window of interrupts.
DmaLimits usual() {
  return *DmaLimits::read(answer().pairs(kRanges, 2, {0xfef00000, 0x7fffffffff, 0, 0xfedfffff}).bytes());
}

TEST(DmaLimits, AreReadFromTheAnswer) {
  const std::uint32_t most = 65535;
  const auto bytes =
      answer().pairs(kRanges, 1, {0, 0xffff}).capability(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, bytes_of(most));
  const auto limits = DmaLimits::read(bytes.bytes());
  ASSERT_TRUE(limits);
  EXPECT_EQ(limits->page, kPage);
  EXPECT_EQ(limits->maps, most);
  ASSERT_EQ(limits->iovas.size(), 1U);
  EXPECT_EQ(limits->iovas.front().last, memory::Iova(0xffff));
}

TEST(DmaLimits, AllIovasMayBeTriedWhereNoneAreTold) {
  const auto limits = DmaLimits::read(bytes_of(vfio_iommu_type1_info{}));
  ASSERT_TRUE(limits);
  EXPECT_EQ(limits->page, page_size());
  EXPECT_FALSE(limits->maps);
  EXPECT_EQ(limits->iovas.front().last, memory::Iova(~0ULL));
}

TEST(DmaLimits, RefusesAnswersThatMakeNoSense) {
  EXPECT_FALSE(DmaLimits::read({}));
  EXPECT_FALSE(DmaLimits::read(answer().pairs(kRanges, 0, {}).bytes()));
  EXPECT_FALSE(DmaLimits::read(answer().pairs(kRanges, 2, {0, 1}).bytes()));
  EXPECT_FALSE(DmaLimits::read(answer().pairs(kRanges, 1, {2, 1}).bytes()));
}

TEST(DmaLimits, LetWhatFitsBeMapped) {
  EXPECT_TRUE(usual().check(make_region(0, kMib)));
  EXPECT_TRUE(usual().check(make_region(0xfee00000 - kMib, kMib)));
  EXPECT_TRUE(usual().check(make_region(0xfef00000, kMib)));
  EXPECT_TRUE(usual().check(make_region((1ULL << 39) - kPage, kPage)));
}

TEST(DmaLimits, RefuseWhatIsNotInWholePages) {
  const auto refused = usual().check(make_region(kMib + 0x800, kPage));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::invalid_value);
  EXPECT_NE(refused.error().what.find("IOVA 0x100800"), std::string::npos) << refused.error().what;
  EXPECT_FALSE(usual().check(make_region(kMib, kPage + 0x800)));
  const auto unaligned =
      memory::Region::map(memory::Iova(0), memory::FrontendVa(0), kPage, *make_memfd("test", kMib), 0x800);
  EXPECT_FALSE(usual().check(*unaligned));
}

TEST(DmaLimits, RefuseWhatIsNotInOneRange) {
  for (const std::uint64_t iova :
       {0xfee00000ULL, 0xfee00000ULL - kPage, 1ULL << 39, (1ULL << 39) - kPage, ~0ULL << 20}) {
    const auto refused = usual().check(make_region(iova, kMib));
    ASSERT_FALSE(refused) << iova;
    EXPECT_EQ(refused.error().code, Errc::invalid_value);
    EXPECT_NE(refused.error().what.find("0x0 to 0xfedfffff, 0xfef00000 to 0x7fffffffff"), std::string::npos);
  }
}

}  // namespace
}  // namespace causeway::vfio

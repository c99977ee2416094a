#include "vfio/region_layout.h"

#include "vfio/test_support.h"

#include <gtest/gtest.h>

#include <linux/pci_regs.h>

#include <array>

namespace causeway::vfio {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint32_t kMappable =
    VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE | VFIO_REGION_INFO_FLAG_MMAP;

Answer<vfio_region_info> answer(std::uint64_t size, std::uint32_t flags) {
  vfio_region_info head{};
  head.flags = flags | VFIO_REGION_INFO_FLAG_CAPS;
  head.size = size;
  head.offset = 1ULL << 40;
  return Answer(head);
}

TEST(RegionAnswer, WholeRegionIsMappableWithoutSparseAreas) {
  const vfio_region_info said{
      .argsz = 0, .flags = kMappable, .index = 0, .cap_offset = 0, .size = 0x4000, .offset = 1ULL << 40};
  const auto region = read_region_answer(Answer(said).bytes());
  ASSERT_TRUE(region);
  EXPECT_EQ(region->info.size, 0x4000U);
  EXPECT_TRUE(region->info.readable && region->info.writable);
  EXPECT_EQ(region->offset, 1ULL << 40);
  EXPECT_EQ(region->info.mappable, (std::vector<Area>{{0, 0x4000}}));
  EXPECT_FALSE(region->msix_is_mappable);
}

TEST(RegionAnswer, NothingIsMappableWhereCapabilitiesDidNotFit) {
  const auto region = read_region_answer(answer(0x4000, kMappable).bytes());
  ASSERT_TRUE(region);
  EXPECT_TRUE(region->info.mappable.empty());
}

TEST(RegionAnswer, NothingIsMappableWithoutTheFlag) {
  const auto region = read_region_answer(
      answer(0x4000, VFIO_REGION_INFO_FLAG_READ).pairs(VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, {0, 0x1000}).bytes());
  ASSERT_TRUE(region);
  EXPECT_FALSE(region->info.writable);
  EXPECT_TRUE(region->info.mappable.empty());
}

TEST(RegionAnswer, SparseAreasAreTheMappableOnes) {
  const auto region = read_region_answer(answer(0x4000, kMappable)
                                             .capability(VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, {})
                                             .pairs(VFIO_REGION_INFO_CAP_SPARSE_MMAP, 2, {0, 0x1000, 0x3000, 0x1000})
                                             .bytes());
  ASSERT_TRUE(region);
  EXPECT_EQ(region->info.mappable, (std::vector<Area>{{0, 0x1000}, {0x3000, 0x1000}}));
  EXPECT_TRUE(region->msix_is_mappable);
}

TEST(RegionAnswer, RefusesAreasOutsideOfTheRegion) {
  for (const auto& [offset, size] : {std::pair{0x4000ULL, 1ULL}, {0x3000, 0x1001}, {0x1000, ~0ULL}, {~0ULL, 2}}) {
    const auto bytes = answer(0x4000, kMappable).pairs(VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, {offset, size});
    const auto region = read_region_answer(bytes.bytes());
    ASSERT_FALSE(region) << offset;
    EXPECT_EQ(region.error().code, Errc::peer_violation);
  }
}

TEST(RegionAnswer, RefusesWhatIsCutOffOrInNoFile) {
  const auto whole = answer(0x4000, kMappable);
  EXPECT_FALSE(read_region_answer(whole.bytes().first(sizeof(vfio_region_info) - 1)));
  EXPECT_FALSE(read_region_answer({}));
  EXPECT_FALSE(read_region_answer(answer(~0ULL, kMappable).bytes()));
  EXPECT_FALSE(read_region_answer(answer(~0ULL >> 1, kMappable).bytes()));  // begins too high for this size
}

TEST(WholePages, AreRoundedInwards) {
  const std::array areas = {Area{0x10, 0x2ff0}, Area{0x4000, 0xfff}, Area{0x6000, 0x1000}};
  EXPECT_EQ(whole_pages(areas, std::nullopt, kPage), (std::vector<Area>{{0x1000, 0x2000}, {0x6000, 0x1000}}));
}

TEST(WholePages, LeaveOutPagesOfTheHole) {
  const std::array areas = {Area{0, 0x5000}};
  const auto without = [&areas](std::uint64_t offset, std::uint64_t size) {
    return whole_pages(areas, Area{offset, size}, kPage);
  };
  EXPECT_EQ(without(0x1010, 0x10), (std::vector<Area>{{0, 0x1000}, {0x2000, 0x3000}}));
  EXPECT_EQ(without(0, 0x1001), (std::vector<Area>{{0x2000, 0x3000}}));
  EXPECT_EQ(without(0x4ff0, 0x100), (std::vector<Area>{{0, 0x4000}}));
  EXPECT_EQ(without(0x5000, 0x100), (std::vector<Area>{{0, 0x5000}}));
  EXPECT_TRUE(without(0, 0x5000).empty());
}

/// 256 bytes with a capability of the vendor's, and MSI-X behind it with 5 entries at 0x2000 of BAR 4.
class MsixTableTest : public ::testing::Test {
 protected:
  MsixTableTest() {
    set(PCI_STATUS, {PCI_STATUS_CAP_LIST});
    set(PCI_CAPABILITY_LIST, {0x50});
    set(0x50, {PCI_CAP_ID_VNDR, 0x98});
    set(0x98, {PCI_CAP_ID_MSIX, 0, 4, 0x80, 0x04, 0x20});
  }
  void set(std::size_t at, std::initializer_list<unsigned> values) {
    for (const unsigned value : values) config[at++] = static_cast<std::byte>(value);
  }
  std::array<std::byte, 256> config{};
};

TEST_F(MsixTableTest, IsFound) {
  EXPECT_EQ(find_msix_table(config), (MsixTable{.region = RegionIndex::bar4, .area = {.offset = 0x2000, .size = 80}}));
}

TEST_F(MsixTableTest, IsNotThereWithoutTheCapability) {
  set(0x98, {PCI_CAP_ID_MSI});
  EXPECT_FALSE(find_msix_table(config));
  set(PCI_STATUS, {0});
  EXPECT_FALSE(find_msix_table(config));
}

TEST_F(MsixTableTest, IsNotThereInAListThatGoesRound) {
  set(0x50, {PCI_CAP_ID_VNDR, 0x50});
  EXPECT_FALSE(find_msix_table(config));
}

TEST_F(MsixTableTest, IsNotThereWhenCutOffOrInNoBar) {
  EXPECT_FALSE(find_msix_table(std::span(config).first(255)));
  set(0x9c, {0x07});
  EXPECT_FALSE(find_msix_table(config));
  set(0x50, {PCI_CAP_ID_VNDR, 0xf8});
  set(0xf8, {PCI_CAP_ID_MSIX});
  EXPECT_FALSE(find_msix_table(config));
}

}  // namespace
}  // namespace causeway::vfio

#include "vhost_user/session_fixture.h"

namespace causeway::vhost_user::testing {
namespace {

class Memory : public SessionTest {
 protected:
  void SetUp() override {
    SessionTest::SetUp();
    negotiate();
  }
  std::optional<std::uint64_t> add(const wire::Region& region) {
    return ask(Request::add_mem_reg, bytes_of(wire::MemoryRegion{.padding = 0, .region = region}),
               {&rig_->memory.file()});
  }
  std::optional<std::uint64_t> remove(const wire::Region& region, std::vector<const OwnedFd*> fds = {}) {
    return ask(Request::rem_mem_reg, bytes_of(wire::MemoryRegion{.padding = 0, .region = region}), std::move(fds));
  }
};

TEST_F(Memory, TableIsMappedOnTheDevice) {
  give_memory();
  ASSERT_EQ(device().regions.size(), 1u);
  EXPECT_EQ(device().regions[0].iova, memory::Iova(GuestMemory::kGpa));
  EXPECT_EQ(device().regions[0].frontend_va, memory::FrontendVa(GuestMemory::kFrontendVa));
}

TEST_F(Memory, TableReplacesWhatWasThere) {
  EXPECT_EQ(add(GuestMemory::region(3, 4)), 0u);
  give_memory();
  EXPECT_EQ(device().regions.size(), 1u);
}

TEST_F(Memory, RefusesAZeroLengthRegionAndKeepsTheOldTable) {
  give_memory();
  auto region = GuestMemory::region();
  region.size = 0;
  const wire::MemoryTableHead head{.count = 1, .padding = 0};
  EXPECT_EQ(ask(Request::set_mem_table, bytes_of(head, region), {&rig_->memory.file()}), 1u);
  EXPECT_EQ(port().memory().regions().size(), 1u);
}

TEST_F(Memory, RefusesARegionBehindTheEndOfItsFile) {
  auto region = GuestMemory::region();
  region.size = GuestMemory::kSize + 1;
  EXPECT_EQ(add(region), 1u);
  region.size = ~0ULL - 4096;
  EXPECT_EQ(add(region), 1u);
  region = GuestMemory::region();
  region.mmap_offset = ~0ULL - 4095;
  EXPECT_EQ(add(region), 1u);
  EXPECT_TRUE(answers());
}

TEST_F(Memory, RefusesRegionsThatWrap) {
  auto region = GuestMemory::region();
  region.guest_address = ~0ULL - 4095;
  EXPECT_EQ(add(region), 1u);
  region = GuestMemory::region();
  region.user_address = ~0ULL - 4095;
  EXPECT_EQ(add(region), 1u);
}

TEST_F(Memory, RefusesOverlapInGuestAddressesAndInUserAddresses) {
  EXPECT_EQ(add(GuestMemory::region(0, 4)), 0u);
  auto region = GuestMemory::region(1, 4);
  region.guest_address -= 4096;
  EXPECT_EQ(add(region), 1u);
  region = GuestMemory::region(1, 4);
  region.user_address -= 4096;
  EXPECT_EQ(add(region), 1u);
  EXPECT_EQ(add(GuestMemory::region(1, 4)), 0u);
  EXPECT_EQ(port().memory().regions().size(), 2u);
}

TEST_F(Memory, RefusesADescriptorThatIsNoMemoryFile) {
  const wire::MemoryRegion payload{.padding = 0, .region = GuestMemory::region()};
  EXPECT_EQ(ask(Request::add_mem_reg, bytes_of(payload), {&kick_.fd()}), 1u);
  EXPECT_TRUE(answers());
}

TEST_F(Memory, TakesExactlyFiveHundredAndNineRegions) {
  auto region = GuestMemory::region();
  region.size = 4096;
  region.mmap_offset = 0;
  for (std::size_t i = 0; i < kMaxMemorySlots; ++i) {
    region.guest_address = GuestMemory::kGpa + i * 4096;
    region.user_address = GuestMemory::kFrontendVa + i * 4096;
    ASSERT_EQ(add(region), 0u) << i;
  }
  region.guest_address += 4096;
  region.user_address += 4096;
  EXPECT_EQ(add(region), 1u);
  EXPECT_EQ(device().regions.size(), kMaxMemorySlots);
}

TEST_F(Memory, RemovesByGuestAddressUserAddressAndSize) {
  EXPECT_EQ(add(GuestMemory::region(0, 4)), 0u);
  auto region = GuestMemory::region(0, 4);
  region.size -= 1;
  EXPECT_EQ(remove(region), 1u);
  region = GuestMemory::region(0, 4);
  region.user_address += 1;
  EXPECT_EQ(remove(region), 1u);
  region = GuestMemory::region(0, 4);
  region.mmap_offset = 0xdead;
  EXPECT_EQ(remove(region), 0u);
  EXPECT_TRUE(device().regions.empty());
}

TEST_F(Memory, RemovingToleratesOneStrayDescriptorAndClosesIt) {
  EXPECT_EQ(add(GuestMemory::region(0, 4)), 0u);
  EXPECT_EQ(remove(GuestMemory::region(0, 4), {&kick_.fd()}), 0u);
  EXPECT_EQ(add(GuestMemory::region(0, 4)), 0u);
  EXPECT_EQ(remove(GuestMemory::region(0, 4), {&kick_.fd(), &call_.fd()}), 1u);
}

TEST_F(Memory, AHotplugLeavesRunningQueuesAlone) {
  EXPECT_EQ(add(GuestMemory::region(0, 4)), 0u);
  start_ring(0);
  EXPECT_EQ(add(GuestMemory::region(1, 4)), 0u);
  EXPECT_TRUE(device().runs(0));
}

TEST_F(Memory, AnUnalignedOffsetInTheFileIsMapped) {
  auto region = GuestMemory::region();
  region.size = 4096;
  region.mmap_offset = 512;
  EXPECT_EQ(add(region), 0u);
}

}  // namespace
}  // namespace causeway::vhost_user::testing

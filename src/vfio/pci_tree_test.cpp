#include "vfio/pci_tree.h"

#include "base/loop.h"
#include "vfio/kernel_bus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/temporary_directory.h"

namespace causeway::vfio {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(PciAddress, HasOneForm) {
  EXPECT_TRUE(is_pci_address("0000:01:00.0"));
  EXPECT_TRUE(is_pci_address("ffff:af:1f.7"));
  for (const char* text : {"", "01:00.0", "0000:01:00", "0000:01:00.8", "0000:01:00.00", "0000:AF:00.0",
                           "0000:01:00.0 ", "0000/01/00.0", "../../../..:"}) {
    EXPECT_FALSE(is_pci_address(text)) << text;
  }
}

/// A sysfs with a few functions.
class PciTreeTest : public ::testing::Test {
 protected:
  void add(const std::string& address, const std::string& group, const std::string& driver) {
    const auto folder = root.path() / "bus/pci/devices" / address;
    std::filesystem::create_directories(folder);
    if (!driver.empty()) std::filesystem::create_symlink("../../drivers/" + driver, folder / "driver");
    if (group.empty()) return;
    std::filesystem::create_symlink("../../../kernel/iommu_groups/" + group, folder / "iommu_group");
    const auto members = root.path() / "kernel/iommu_groups" / group / "devices";
    std::filesystem::create_directories(members);
    std::filesystem::create_symlink(folder, members / address);
  }

  testing::TemporaryDirectory root;
  PciTree tree{root.path()};
};

TEST_F(PciTreeTest, TellsGroupAndDriver) {
  add("0000:01:00.0", "7", "vfio-pci");
  add("0000:02:00.0", "8", "");
  EXPECT_EQ(tree.group_of("0000:01:00.0").value(), "7");
  EXPECT_EQ(tree.driver_of("0000:01:00.0"), "vfio-pci");
  EXPECT_EQ(tree.driver_of("0000:02:00.0"), "");
}

TEST_F(PciTreeTest, RefusesAFunctionWithoutIommu) {
  add("0000:01:00.0", "", "vfio-pci");
  const auto group = tree.group_of("0000:01:00.0");
  ASSERT_FALSE(group);
  EXPECT_EQ(group.error().code, Errc::not_supported);
  EXPECT_THAT(group.error().what, HasSubstr("intel_iommu=on"));
}

TEST_F(PciTreeTest, NamesWhatKeepsAGroupFromBeingUsed) {
  add("0000:00:01.0", "7", "pcieport");
  add("0000:01:00.0", "7", "vfio-pci");
  add("0000:01:00.1", "7", "snd_hda_intel");
  add("0000:01:00.2", "7", "");
  add("0000:01:00.3", "7", "mlx5_vfio_pci");
  add("0000:02:00.0", "8", "nvme");
  EXPECT_THAT(tree.hindrances_of("7"), ElementsAre("0000:01:00.1 is bound to snd_hda_intel"));
  EXPECT_THAT(tree.hindrances_of("9"), IsEmpty());
}

TEST(KernelBus, CannotBeOpenedByAWrongAddress) {
  Loop loop;
  const auto malformed = KernelBus::open(loop, "eth0");
  ASSERT_FALSE(malformed);
  EXPECT_EQ(malformed.error().code, Errc::invalid_value);
  EXPECT_THAT(malformed.error().what, HasSubstr("'eth0' is no PCI address"));
  const auto missing = KernelBus::open(loop, "fffe:fe:1f.7");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Errc::not_found);
  EXPECT_THAT(missing.error().what, HasSubstr("fffe:fe:1f.7"));
}

}  // namespace
}  // namespace causeway::vfio

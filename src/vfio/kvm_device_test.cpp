// What of KVM's VFIO device can be seen without KVM; tests/integration/test_vfio_accelerator.py has the rest.
#include "vfio/kvm_device.h"

#include <gtest/gtest.h>

namespace causeway::vfio {
namespace {

TEST(KvmDevice, IsNotMadeOfWhatIsNoVirtualMachine) {
  const auto made = KvmDevice::make(*make_memfd("no-machine", 4096));
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, Errc::not_supported);
  EXPECT_TRUE(made.error().text().starts_with("make KVM's VFIO device")) << made.error().text();
}

TEST(KvmDevice, SaysWhatFailed) {
  const auto device = KvmDevice::adopt(*make_memfd("no-device", 4096));
  const auto group = *make_memfd("no-group", 4096);
  EXPECT_TRUE(device.add(group).error().text().starts_with("tell KVM of a VFIO group"));
  EXPECT_TRUE(device.remove(group).error().text().starts_with("take a VFIO group from KVM"));
}

}  // namespace
}  // namespace causeway::vfio

// What is found in a configuration space: of a function of ours, and of others that are wrong in one way.
#include "virtio_pci/capabilities.h"

#include "virtio_pci/fake_device_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

namespace causeway::virtio_pci::testing {
namespace {

using vfio::RegionIndex;

/// The configuration space of a function of ours, to be broken.
struct CapabilitiesTest : ::testing::Test {
  CapabilitiesTest() {
    const auto worker = value_or_die(Worker::start({.name = "test", .polling = Polling::sleep, .cpu = {}}));
    Loop loop;
    FunctionRig rig(loop, *worker);
    space = rig.config_space();
    bus = rig.function->info();
  }
  template <class T>
  T get(std::size_t at) const {
    T value;
    std::memcpy(&value, space.data() + at, sizeof value);
    return value;
  }
  template <class T>
  void set(std::size_t at, T value) {
    std::memcpy(space.data() + at, &value, sizeof value);
  }
  /// Where the capability is; 0 when there is none.
  std::size_t find(CfgType type) const {
    for (std::size_t at = get<std::uint8_t>(kCapabilities); at != 0; at = get<std::uint8_t>(at + 1)) {
      if (get<std::uint8_t>(at) == kCapVendor && get<VirtioCap>(at).cfg_type == std::to_underlying(type)) return at;
    }
    return 0;
  }
  void remove(CfgType type) { set(find(type), std::uint8_t{0}); }
  /// Nothing: it is good.
  std::optional<Errc> error() const {
    const auto layout = parse_config_space(space, bus);
    return layout ? std::nullopt : std::optional(layout.error().code);
  }

  std::vector<std::byte> space;
  vfio::BusInfo bus;
};

TEST_F(CapabilitiesTest, FindsAllOfAFunctionOfOurs) {
  const auto layout = value_or_die(parse_config_space(space, bus));
  EXPECT_EQ(layout.type, virtio::DeviceType::net);
  EXPECT_EQ(layout.common.bar, RegionIndex::bar0);
  EXPECT_EQ(layout.common.bytes, sizeof(CommonCfg));
  EXPECT_EQ(layout.notify.bar, RegionIndex::bar2);
  EXPECT_EQ(layout.notify.bytes, 3 * page_size()) << "two queues and the control queue";
  EXPECT_EQ(layout.multiplier, page_size());
  ASSERT_TRUE(layout.device);
  EXPECT_EQ(layout.device->bytes, kFakeConfigBytes);
  ASSERT_TRUE(layout.ring_state);
  EXPECT_EQ(layout.ring_state->bytes, sizeof(RingStateCfg));
}

TEST_F(CapabilitiesTest, TransitionalFunctionsAreTaken) {
  set(kDeviceId, kTransitionalBlock);
  EXPECT_EQ(value_or_die(parse_config_space(space, bus)).type, virtio::DeviceType::block);
  set(kDeviceId, kTransitionalNet);
  EXPECT_EQ(value_or_die(parse_config_space(space, bus)).type, virtio::DeviceType::net);
}

TEST_F(CapabilitiesTest, OtherFunctionsAreNot) {
  set(kDeviceId, std::uint16_t{0x1044});
  EXPECT_EQ(error(), Errc::not_supported);
  set(kDeviceId, std::uint16_t{0x1041});
  set(kVendorId, std::uint16_t{0x8086});
  EXPECT_EQ(error(), Errc::not_supported);
}

TEST_F(CapabilitiesTest, SomeCapabilitiesAreNeeded) {
  const auto whole = space;
  for (const auto type : {CfgType::common, CfgType::notify}) {
    space = whole;
    remove(type);
    EXPECT_EQ(error(), Errc::not_supported) << static_cast<int>(type);
  }
  space = whole;
  for (const auto type : {CfgType::isr, CfgType::device, CfgType::pci, CfgType::vendor}) remove(type);
  const auto layout = value_or_die(parse_config_space(space, bus));
  EXPECT_FALSE(layout.device || layout.ring_state);
}

TEST_F(CapabilitiesTest, ACircleIsNoticed) {
  std::size_t last = get<std::uint8_t>(kCapabilities);
  while (get<std::uint8_t>(last + 1) != 0) last = get<std::uint8_t>(last + 1);
  set(last + 1, get<std::uint8_t>(kCapabilities));
  EXPECT_EQ(error(), Errc::peer_violation);
}

TEST_F(CapabilitiesTest, ReservedBitsOfAPointerAreIgnored) {
  std::size_t last = get<std::uint8_t>(kCapabilities);
  set(kCapabilities, static_cast<std::uint8_t>(last | 3));
  while (get<std::uint8_t>(last + 1) != 0) last = get<std::uint8_t>(last + 1);
  set(last + 1, std::uint8_t{2});
  // A list that went on at 0 would come from the vendor's id to a BAR's address, and back.
  set(kBar0 + 9, std::uint8_t{1});
  EXPECT_EQ(error(), std::nullopt);
}

TEST_F(CapabilitiesTest, WhatIsCutOffIsNotRead) {
  for (std::size_t size = 0; size <= space.size(); ++size) {
    const std::vector<std::byte> cut(space.begin(), space.begin() + static_cast<std::ptrdiff_t>(size));
    const auto layout = parse_config_space(cut, bus);
    EXPECT_TRUE(!layout || size >= find(CfgType::notify) + sizeof(NotifyCap)) << size;
  }
}

TEST_F(CapabilitiesTest, ACapabilityOutsideItsBarIsPassedOver) {
  const std::size_t at = find(CfgType::common) + offsetof(VirtioCap, offset);
  const auto size = static_cast<std::uint32_t>(bus.region(RegionIndex::bar0).size);
  set(at, static_cast<std::uint32_t>(size - sizeof(CommonCfg)));
  EXPECT_EQ(error(), std::nullopt);
  for (const std::uint32_t offset : {size - 1, size, size + 1, ~0U}) {
    set(at, offset);
    EXPECT_EQ(error(), Errc::not_supported) << offset;
  }
  set(at, std::uint32_t{0});
  set(find(CfgType::common) + offsetof(VirtioCap, bar), std::uint8_t{6});
  EXPECT_EQ(error(), Errc::not_supported) << "there is no such BAR";
}

TEST_F(CapabilitiesTest, StructuresThatAreTooSmallArePassedOver) {
  const std::size_t at = find(CfgType::common) + offsetof(VirtioCap, bytes);
  set(at, std::uint32_t{56});
  EXPECT_EQ(error(), std::nullopt) << "as functions of virtio 1.0 have it";
  set(at, std::uint32_t{55});
  EXPECT_EQ(error(), Errc::not_supported);
}

TEST_F(CapabilitiesTest, OfSeveralTheFirstThatIsGoodCounts) {
  // The one for access through configuration space makes room for a second one of another kind.
  const std::size_t second = find(CfgType::pci);
  auto cap = get<VirtioCap>(find(CfgType::common));
  cap.next = get<std::uint8_t>(second + 1);
  cap.offset = 0x4000;
  set(second, cap);
  EXPECT_EQ(value_or_die(parse_config_space(space, bus)).common.offset, 0U);
  set(find(CfgType::common) + offsetof(VirtioCap, bar), std::uint8_t{1});
  EXPECT_EQ(value_or_die(parse_config_space(space, bus)).common.offset, 0x4000U);
}

TEST_F(CapabilitiesTest, ASecondRingStateDoesNotTakeTheFirstOnesPlace) {
  const std::size_t first = find(CfgType::pci);
  const std::size_t second = find(CfgType::vendor);
  auto cap = get<RingStateCap>(second);
  cap.next = get<std::uint8_t>(first + 1);
  set(first, cap);
  cap = get<RingStateCap>(second);
  cap.bar = 5;
  set(second, cap);
  EXPECT_TRUE(value_or_die(parse_config_space(space, bus)).ring_state);
}

TEST_F(CapabilitiesTest, RingStateOfOthersOrAnotherVersionIsPassedOver) {
  const std::size_t at = find(CfgType::vendor);
  const auto good = get<RingStateCap>(at);
  auto bad = good;
  bad.version = 2;
  set(at, bad);
  EXPECT_FALSE(value_or_die(parse_config_space(space, bus)).ring_state);
  bad = good;
  bad.magic = 1;
  set(at, bad);
  EXPECT_FALSE(value_or_die(parse_config_space(space, bus)).ring_state);
  bad = good;
  bad.vendor_id = 0x8086;
  set(at, bad);
  EXPECT_FALSE(value_or_die(parse_config_space(space, bus)).ring_state);
}

}  // namespace
}  // namespace causeway::virtio_pci::testing

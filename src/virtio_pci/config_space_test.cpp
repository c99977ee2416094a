// Configuration space as a driver uses it: BAR sizes, writable bits, the window into the BARs.
#include "virtio_pci/config_space.h"

#include "virtio_pci/fake_device_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

namespace causeway::virtio_pci::testing {
namespace {

using vfio::RegionIndex;

TEST(ConfigSpaceTest, ADriverFindsABarsSizeByWritingOnes) {
  ConfigSpace space;
  space.set_bar(2, 0x20000);
  constexpr std::size_t kAt = kBar0 + 8;
  EXPECT_EQ(space.get<std::uint32_t>(kAt), kBarMemory64);
  const std::array<std::byte, 8> ones{std::byte{0xff}, std::byte{0xff}, std::byte{0xff}, std::byte{0xff},
                                      std::byte{0xff}, std::byte{0xff}, std::byte{0xff}, std::byte{0xff}};
  space.write(kAt, ones);
  const auto answer = space.get<std::uint64_t>(kAt);
  EXPECT_EQ(answer & 0xf, kBarMemory64);
  EXPECT_EQ(~(answer & ~0xfULL) + 1, 0x20000U);
  EXPECT_EQ(space.get<std::uint32_t>(kBar0), 0U) << "there is no BAR 0";
}

TEST(ConfigSpaceTest, OnlyBitsThatMayBeWrittenChange) {
  ConfigSpace space;
  space.set(0x10, std::uint16_t{0xa5a5});
  space.allow(0x10, std::uint16_t{0x0ff0});
  const std::array<std::byte, 4> zeros{};
  space.write(0x10, zeros);
  EXPECT_EQ(space.get<std::uint16_t>(0x10), 0xa005);
}

TEST(ConfigSpaceTest, CapabilitiesAreLinked) {
  ConfigSpace space;
  EXPECT_EQ(space.get<std::uint16_t>(kStatus), 0U);
  const auto first = space.add_capability(MsixCap{.id = kCapMsix, .next = 9, .control = 0, .table = 0, .pending = 0});
  const auto second = space.add_capability(MsixCap{.id = kCapMsix, .next = 9, .control = 0, .table = 0, .pending = 0});
  EXPECT_EQ(space.get<std::uint8_t>(kCapabilities), first);
  EXPECT_EQ(space.get<std::uint8_t>(first + 1), second);
  EXPECT_EQ(space.get<std::uint8_t>(second + 1), 0U);
  EXPECT_EQ(space.get<std::uint16_t>(kStatus), kStatusCapabilities);
}

/// The window of 4.1.4.9, through which BARs are reached by whoever cannot map them.
struct Window : ::testing::Test {
  Window() {
    const auto space = rig.config_space();
    for (std::size_t at = kConfigSpaceBytes - sizeof(PciCfgCap); at >= 0x40; at -= 4) {
      VirtioCap cap{};
      std::memcpy(&cap, space.data() + at, sizeof cap);
      if (cap.id == kCapVendor && cap.cfg_type == std::to_underlying(CfgType::pci)) place = at;
    }
  }
  void aim(std::uint8_t bar, std::uint32_t offset, std::uint32_t bytes) {
    rig.set(place + offsetof(VirtioCap, bar), bar, RegionIndex::config);
    rig.set(place + offsetof(VirtioCap, offset), offset, RegionIndex::config);
    rig.set(place + offsetof(VirtioCap, bytes), bytes, RegionIndex::config);
  }
  template <class T>
  T read() {
    return rig.get<T>(place + offsetof(PciCfgCap, data), RegionIndex::config);
  }
  template <class T>
  void write(T value) {
    rig.set(place + offsetof(PciCfgCap, data), value, RegionIndex::config);
  }

  std::unique_ptr<Worker> worker = value_or_die(Worker::start({.name = "test", .polling = Polling::sleep, .cpu = {}}));
  Loop loop;
  FunctionRig rig{loop, *worker};
  std::size_t place = 0;
};

TEST_F(Window, ReadsAndWritesRegisters) {
  ASSERT_NE(place, 0U);
  aim(0, offsetof(CommonCfg, num_queues), 2);
  EXPECT_EQ(read<std::uint16_t>(), 3U);
  aim(0, offsetof(CommonCfg, device_status), 1);
  write(std::uint8_t{1});
  EXPECT_EQ(read<std::uint8_t>(), 1U);
  EXPECT_EQ(rig.get<std::uint8_t>(offsetof(CommonCfg, device_status)), 1U);
  aim(0, offsetof(CommonCfg, device_feature), 4);
  EXPECT_EQ(read<std::uint32_t>(), rig.get<std::uint32_t>(offsetof(CommonCfg, device_feature)));
}

TEST_F(Window, DoesNothingWhereItAimsAtNothing) {
  const auto status = [&] { return rig.get<std::uint8_t>(offsetof(CommonCfg, device_status)); };
  const struct {
    std::uint8_t bar;
    std::uint32_t offset;
    std::uint32_t bytes;
  } wrong[] = {{0, offsetof(CommonCfg, device_status), 2},  // of another size than the access
               {0, offsetof(CommonCfg, device_status), 0},
               {1, offsetof(CommonCfg, device_status), 1},  // no such BAR
               {7, offsetof(CommonCfg, device_status), 1},  // configuration space itself
               {0, 0xffffffff, 1}};
  for (const auto& [bar, offset, bytes] : wrong) {
    aim(bar, offset, bytes);
    write(std::uint8_t{1});
    EXPECT_EQ(status(), 0U) << int{bar} << ' ' << offset << ' ' << bytes;
    EXPECT_EQ(read<std::uint8_t>(), 0U);
  }
  aim(0, offsetof(CommonCfg, device_status) - 2, 4);
  write(std::uint32_t{0x01010101});
  EXPECT_EQ(status(), 0U) << "the offset is no multiple of the size";
}

TEST_F(Window, IsAllThatADriverCanChangeInACapability) {
  const auto before = rig.config_space();
  const std::vector<std::byte> ones(4, std::byte{0xff});
  for (std::size_t at = 0x40; at + 4 <= kConfigSpaceBytes; at += 4) {
    if (at >= place && at < place + sizeof(PciCfgCap)) continue;
    ASSERT_TRUE(rig.function->write(RegionIndex::config, at, ones));
  }
  auto after = rig.config_space();
  // MSI-X is first: its enable and mask bits.
  EXPECT_EQ(after[0x43], before[0x43] | std::byte{0xc0});
  after[0x43] = before[0x43];
  EXPECT_EQ(after, before);
}

}  // namespace
}  // namespace causeway::virtio_pci::testing

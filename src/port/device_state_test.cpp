#include "port/device_state.h"

#include "base/parcel.h"
#include "port/sealed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace causeway::port {
namespace {

using ::testing::HasSubstr;

DeviceState full_state() {
  return {.type = virtio::DeviceType::net,
          .features = virtio::FeatureSet{virtio::Feature::version_1, virtio::Feature::ring_packed},
          .control_queue = 4,
          .commands = {{std::byte{0}, std::byte{1}, std::byte{1}}, {}},
          .config = {{32, std::byte{1}}, {33, std::byte{0}}}};
}

std::string reason(std::span<const std::byte> bytes) {
  const auto state = decode_device_state(bytes);
  return state ? "it is taken" : state.error().text();
}

std::vector<std::byte> sealed(const ParcelWriter& body, std::uint32_t format = 1) {
  return seal({.magic = 0x53445743, .first = 1, .last = 1, .name = {}}, format, body.contents());
}

TEST(DeviceState, IsReadAsItWasWritten) {
  for (const DeviceState& state : {full_state(), DeviceState{}}) {
    const auto read = decode_device_state(encode(state));
    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(*read, state);
  }
}

TEST(DeviceState, CutOffAnywhereIsRefused) {
  const auto whole = encode(full_state());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_THAT(reason(std::span(whole).first(size)), HasSubstr("truncated")) << size;
  }
}

TEST(DeviceState, WithAnyBitChangedIsRefused) {
  const auto whole = encode(full_state());
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    auto changed = whole;
    changed[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_NE(reason(changed), "it is taken") << bit;
  }
}

TEST(DeviceState, OfAnotherFormatIsRefusedByName) {
  EXPECT_THAT(reason(sealed(ParcelWriter(), 2)), HasSubstr("format 2"));
}

TEST(DeviceState, OfSomebodyElseIsRefused) {
  EXPECT_THAT(reason(std::vector<std::byte>(64)), HasSubstr("no state of a device"));
}

TEST(DeviceState, HasOneFormOnly) {
  ParcelWriter body;
  body.number(std::uint32_t{1});
  body.number(std::uint64_t{0});
  body.flag(false);
  body.number(std::uint32_t{0});
  body.number(std::uint32_t{2});
  for (const std::uint32_t offset : {9U, 8U}) {
    body.number(offset);
    body.number(std::uint8_t{0});
  }
  EXPECT_THAT(reason(sealed(body)), HasSubstr("out of order"));
}

TEST(DeviceState, WithAListThatCannotBeThereIsRefused) {
  ParcelWriter body;
  body.number(std::uint32_t{1});
  body.number(std::uint64_t{0});
  body.flag(false);
  body.number(~std::uint32_t{0});
  EXPECT_THAT(reason(sealed(body)), HasSubstr("contradicts itself"));
}

}  // namespace
}  // namespace causeway::port

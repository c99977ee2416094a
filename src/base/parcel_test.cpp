#include "base/parcel.h"

#include "base/event_fd.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace causeway {
namespace {

using namespace std::chrono_literals;

Parcel unsent(const ParcelWriter& writer) {
  return {.bytes = {writer.contents().begin(), writer.contents().end()}, .fds = {}};
}

RC_GTEST_PROP(ParcelTest, WhatIsWrittenIsRead, (std::uint64_t number, const std::string& text, bool flag)) {
  ParcelWriter writer;
  writer.number(number);
  writer.text(text);
  writer.flag(flag);
  writer.number(static_cast<std::uint16_t>(number));
  ParcelReader reader(unsent(writer));
  RC_ASSERT(reader.number<std::uint64_t>() == number);
  RC_ASSERT(reader.text() == text);
  RC_ASSERT(reader.flag() == flag);
  RC_ASSERT(reader.number<std::uint16_t>() == static_cast<std::uint16_t>(number));
  RC_ASSERT(reader.finish().has_value());
}

TEST(ParcelTest, WhatIsCutOffFailsForGood) {
  ParcelWriter writer;
  writer.number(std::uint32_t{7});
  ParcelReader reader(unsent(writer));
  EXPECT_EQ(reader.number<std::uint64_t>(), 0U);
  EXPECT_EQ(reader.number<std::uint32_t>(), 0U);
  ASSERT_FALSE(reader.finish());
  EXPECT_EQ(reader.finish().error().what, "cut off after 4 bytes");
}

TEST(ParcelTest, WhatFollowsTheLastValueIsAFailure) {
  ParcelWriter writer;
  writer.number(std::uint32_t{7});
  ParcelReader reader(unsent(writer));
  reader.number<std::uint16_t>();
  EXPECT_EQ(reader.finish().error().what, "2 bytes too many");
}

TEST(ParcelTest, AListThatCannotBeThereIsNotBelieved) {
  ParcelWriter writer;
  writer.number(~std::uint32_t{0});
  writer.number(std::uint64_t{0});
  ParcelReader reader(unsent(writer));
  EXPECT_EQ(reader.count(8), 0U);
  EXPECT_FALSE(reader.finish());
}

TEST(ParcelTest, ADescriptorThatDidNotComeIsAFailure) {
  ParcelWriter writer;
  writer.number(std::uint32_t{0});
  ParcelReader reader(unsent(writer));
  EXPECT_FALSE(reader.descriptor());
  EXPECT_EQ(reader.finish().error().what, "descriptor 0 of 0");
}

struct ParcelSocketTest : ::testing::Test {
  std::pair<UnixSocket, UnixSocket> pair = *UnixSocket::make_pair();
};

TEST_F(ParcelSocketTest, CarriesMoreDescriptorsThanOneMessageCan) {
  constexpr std::size_t kCount = 600;
  std::vector<EventFd> events;
  for (std::size_t i = 0; i < kCount; ++i) events.push_back(*EventFd::make());
  ParcelWriter writer;
  for (const EventFd& event : events) writer.descriptor(event.fd());
  writer.descriptor(events.front().fd());
  EXPECT_EQ(writer.descriptors().size(), kCount);
  std::thread sender([&] { EXPECT_TRUE(send_parcel(pair.first, writer)); });
  auto parcel = receive_parcel(pair.second, 30s);
  sender.join();
  ASSERT_TRUE(parcel) << parcel.error().text();
  ParcelReader reader(std::move(*parcel));
  for (std::size_t i = 0; i <= kCount; ++i) {
    auto fd = reader.descriptor();
    ASSERT_TRUE(fd);
    EventFd::adopt(std::move(*fd))->signal();
  }
  EXPECT_TRUE(reader.finish());
  for (const EventFd& event : events) EXPECT_TRUE(event.drain());
}

TEST_F(ParcelSocketTest, ALargeParcelArrivesWhole) {
  ParcelWriter writer;
  const std::vector<std::byte> large(5U << 20, std::byte{0x5a});
  writer.bytes(large);
  std::thread sender([&] { EXPECT_TRUE(send_parcel(pair.first, writer)); });
  auto parcel = receive_parcel(pair.second, 30s);
  sender.join();
  ASSERT_TRUE(parcel);
  ParcelReader reader(std::move(*parcel));
  EXPECT_EQ(reader.bytes(), large);
}

TEST_F(ParcelSocketTest, SaysWhyNothingCame) {
  EXPECT_EQ(receive_parcel(pair.second, 1ms).error().what, "the other process says nothing");
  ASSERT_TRUE(pair.first.send(std::as_bytes(std::span("no parcel at all"))));
  EXPECT_EQ(receive_parcel(pair.second, 1s).error().what, "the other process sends no parcel");
  {
    const auto gone = std::move(pair.first);
  }
  std::array<std::byte, 64> rest{};
  EXPECT_TRUE(pair.second.receive(rest));
  EXPECT_EQ(receive_parcel(pair.second, 1s).error().what, "the other process has gone");
}

}  // namespace
}  // namespace causeway

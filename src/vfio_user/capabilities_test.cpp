// The JSON of VERSION.
#include "vfio_user/capabilities.h"

#include "vfio_user/fake_function_fixture.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace causeway::vfio_user::testing {
namespace {

using namespace std::string_literals;

Message version(std::string_view text, std::uint16_t major = 0, std::uint16_t minor = 1) {
  Message message{.header = {.id = 0, .command = 1, .size = 0, .flags = 0, .error = 0}, .body = {}, .fds = {}};
  append(message.body, wire::Version{.major = major, .minor = minor});
  const auto bytes = std::as_bytes(std::span(text));
  message.body.insert(message.body.end(), bytes.begin(), bytes.end());
  return message;
}

/// The text between the braces of "capabilities".
Result<Capabilities> decode(const std::string& members) {
  return decode_version(version("{\"capabilities\":{" + members + "}}" + '\0'));
}

TEST(VersionCapabilities, WhatIsSaidIsUnderstood) {
  const Capabilities said{.max_fds = 9, .max_transfer = 12345, .max_dma_maps = 0, .page_sizes = 0x40201000};
  Message message = version({});
  message.body = encode_version(said);
  const auto understood = value_or_die(decode_version(message));
  EXPECT_EQ(understood.max_fds, said.max_fds);
  EXPECT_EQ(understood.max_transfer, said.max_transfer);
  EXPECT_EQ(understood.max_dma_maps, said.max_dma_maps);
  EXPECT_EQ(understood.page_sizes, said.page_sizes);
}

TEST(VersionCapabilities, WhatIsNotSaidHasTheProtocolsDefaults) {
  const Capabilities defaults;
  for (const auto& text : {""s, "{}\0"s, "{\"capabilities\":{}}\0"s, "{\"other\":[{}]}\0"s}) {
    const auto understood = decode_version(version(text));
    ASSERT_TRUE(understood) << text;
    EXPECT_EQ(understood->max_fds, defaults.max_fds) << text;
    EXPECT_EQ(understood->max_transfer, defaults.max_transfer) << text;
  }
  EXPECT_EQ(value_or_die(decode("\"max_msg_fds\":3,\"migration\":{\"pgsize\":4096}")).max_fds, 3U);
}

TEST(VersionCapabilities, AnotherMinorVersionIsNoHindrance) {
  EXPECT_TRUE(decode_version(version({}, 0, 77)));
  EXPECT_EQ(decode_version(version({}, 1, 0)).error().code, Errc::not_supported);
}

TEST(VersionCapabilities, NumbersThatAreNoneAreRefused) {
  for (const auto& members :
       {"\"max_msg_fds\":-1"s, "\"max_msg_fds\":4294967296"s, "\"max_msg_fds\":1.5"s, "\"max_data_xfer_size\":\"8\""s,
        "\"max_dma_maps\":null"s, "\"pgsizes\":[4096]"s, "\"pgsizes\":18446744073709551616"s}) {
    const auto decoded = decode(members);
    ASSERT_FALSE(decoded) << members;
    EXPECT_EQ(decoded.error().code, Errc::peer_violation) << members;
  }
  EXPECT_EQ(value_or_die(decode("\"pgsizes\":18446744073709551615")).page_sizes, ~0ULL);
}

TEST(VersionCapabilities, TextThatIsNoneIsRefused) {
  for (const auto& text : {"{}"s, "\0"s, "{\0"s, "[]\0"s, "7\0"s, "{\"capabilities\":[]}\0"s}) {
    const auto decoded = decode_version(version(text));
    ASSERT_FALSE(decoded) << text;
    EXPECT_EQ(decoded.error().code, Errc::peer_violation) << text;
  }
  Message cut = version({});
  cut.body.pop_back();
  EXPECT_EQ(decode_version(cut).error().code, Errc::peer_violation);
}

}  // namespace
}  // namespace causeway::vfio_user::testing

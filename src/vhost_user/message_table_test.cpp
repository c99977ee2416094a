#include "vhost_user/message_table.h"

#include "vhost_user/codec.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

namespace causeway::vhost_user {
namespace {

TEST(MessageTable, KnowsEveryMessageByNumberAndName) {
  EXPECT_EQ(frontend_messages().size(), 45u);
  EXPECT_EQ(backend_messages().size(), 11u);
  EXPECT_EQ(protocol_features().size(), 25u);
  EXPECT_EQ(find_frontend_message(0), nullptr);
  EXPECT_EQ(find_frontend_message(46), nullptr);
  EXPECT_EQ(find_frontend_message(45)->name, "GET_VRING_BASE_SKIP_DRAIN");
  EXPECT_EQ(name_of_request(12), "SET_VRING_KICK");
  EXPECT_EQ(name_of_request(99), "message 99");
}

/// By a port with one configuration or another.
ProtocolFeatures all_offered() {
  const auto all = configured_features(true, true);
  return ProtocolFeatures(offered_protocol_features(all).bits() |
                          offered_protocol_features(all.with(ProtocolFeature::pagefault)).bits());
}

TEST(MessageTable, OffersWhatItsMessagesNeed) {
  const auto offered = all_offered();
  for (const MessageSpec& spec : frontend_messages()) {
    if (spec.support != Support::handled) continue;
    EXPECT_TRUE(spec.needs.minus(offered).is_empty()) << spec.name;
  }
}

TEST(MessageTable, OffersNoFeatureWhoseMessagesAreRefused) {
  const auto offered = all_offered();
  for (const MessageSpec& spec : frontend_messages()) {
    if (spec.support == Support::handled || spec.needs.is_empty()) continue;
    EXPECT_FALSE(spec.needs.minus(offered).is_empty()) << spec.name;
  }
}

TEST(MessageTable, InbandNotificationsAreOfferedOnlyWhenConfigured) {
  EXPECT_FALSE(offered_protocol_features().has(ProtocolFeature::inband_notifications));
  EXPECT_TRUE(offered_protocol_features(configured_features(true, false)).has(ProtocolFeature::inband_notifications));
}

TEST(MessageTable, PostCopyIsOfferedInThePlaceOfMemorySlots) {
  const auto usual = offered_protocol_features();
  EXPECT_FALSE(usual.has(ProtocolFeature::pagefault));
  EXPECT_EQ(offered_protocol_features({ProtocolFeature::pagefault}),
            usual.with(ProtocolFeature::pagefault).minus({ProtocolFeature::configure_mem_slots}));
}

TEST(MessageTable, OurOwnExtensionIsOutsideTheStandardsRangesAndOfferedOnlyWhenConfigured) {
  EXPECT_FALSE(offered_protocol_features().has(ProtocolFeature::vfio_group));
  EXPECT_EQ(offered_protocol_features(configured_features(false, true)).minus(offered_protocol_features()).bits(),
            std::uint64_t{1} << 63);
  EXPECT_FALSE(accepted_protocol_features({}, false).has(ProtocolFeature::vfio_group));
  const MessageSpec* const own = find_backend_message(65537);
  ASSERT_NE(own, nullptr);
  EXPECT_EQ(&spec_of(BackendRequest::vring_vfio_group_msg), own);
  EXPECT_EQ(find_backend_message(11), nullptr);
  EXPECT_EQ(find_frontend_message(65537), nullptr);
  EXPECT_EQ(text(ProtocolFeatures(3ULL << 62)), "bit62 VFIO_GROUP");
}

TEST(MessageTable, SaysWhyWhatIsNotHandledIsRefused) {
  for (const MessageSpec& spec : frontend_messages()) {
    const Bytes body(spec.min_size);
    const auto message = decode({.request = spec.id, .need_reply = false, .size = spec.min_size}, body, {});
    if (spec.support == Support::handled) {
      // A handled message may be wrong for other reasons, but never for want of a decoder.
      EXPECT_TRUE(message || message.error().code != Errc::not_supported) << spec.name;
    } else {
      ASSERT_FALSE(message) << spec.name;
      EXPECT_EQ(message.error().code, Errc::not_supported);
      EXPECT_TRUE(message.error().what.starts_with(spec.name)) << message.error().what;
    }
  }
}

std::string page() {
  // The page of the source tree that this test was built from.
  std::string path = __FILE__;
  path.resize(path.rfind("/src/vhost_user/"));
  for (const std::string& candidate : {path, path + "/../.."}) {
    std::ifstream file(candidate + "/docs/wire/vhost-user.md");
    if (file) return {std::istreambuf_iterator<char>(file), {}};
  }
  return {};
}

std::string word_of(Support support) {
  switch (support) {
    case Support::handled:
      return "yes";
    case Support::later:
      return "later";
    case Support::other_device:
      return "other device";
  }
  return {};
}

std::string word_of(Reply reply) {
  switch (reply) {
    case Reply::ack_if_asked:
      return "ack if asked";
    case Reply::u64_value:
      return "u64";
    case Reply::u64_status:
      return "u64, 0 = done";
    case Reply::u64_channel:
      return "u64, bits 0-7 0 = done";
    case Reply::vring_state:
      return "vring state";
    case Reply::config:
      return "config";
    case Reply::inflight:
      return "in-flight, with a descriptor";
    case Reply::descriptor:
      return "a descriptor";
    case Reply::other:
      return "its own";
  }
  return {};
}

std::string row_of(const MessageSpec& spec) {
  const auto sizes = spec.min_size == spec.max_size ? fmt::format("{}", spec.min_size)
                                                    : fmt::format("{}-{}", spec.min_size, spec.max_size);
  return fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} |\n", spec.id, spec.name, name_of(spec.payload), sizes,
                     name_of(spec.fds), word_of(spec.reply), text(spec.needs), word_of(spec.support));
}

std::string row_of(const ProtocolFeatureSpec& spec) {
  using enum ProtocolFeatureSpec::Offer;
  const auto offer = spec.offer == yes ? "yes" : spec.offer == if_configured ? "if configured" : "no";
  return fmt::format("| {} | {} | {} |\n", static_cast<unsigned>(spec.feature), spec.name, offer);
}

// A row that is missing is printed as it must stand in the page.
TEST(MessageTable, IsWhatTheDocumentationSays) {
  const std::string text = page();
  ASSERT_FALSE(text.empty()) << "docs/wire/vhost-user.md cannot be read";
  for (const auto table : {frontend_messages(), backend_messages()}) {
    for (const MessageSpec& spec : table) EXPECT_TRUE(text.contains(row_of(spec))) << row_of(spec);
  }
  for (const auto& spec : protocol_features()) EXPECT_TRUE(text.contains(row_of(spec))) << row_of(spec);
}

}  // namespace
}  // namespace causeway::vhost_user

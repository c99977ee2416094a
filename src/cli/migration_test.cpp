#include "cli/migration.h"

#include "cli/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <control/causeway.pb.h>

namespace causeway::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(CanMigrate, AsksAHostByItsShell) {
  const auto words = ssh_words({.host = "admin@host2", .port = "net0"});
  ASSERT_TRUE(words.has_value()) << words.error().text();
  EXPECT_THAT(*words, ElementsAre("ssh", "admin@host2", "causeway --json port can-take net0"));
}

TEST(CanMigrate, WhatTheShellThereWouldUnderstandIsQuoted) {
  const auto words = ssh_words({.host = "host2", .port = "a'; reboot"});
  ASSERT_TRUE(words.has_value()) << words.error().text();
  EXPECT_EQ(words->back(), R"(causeway --json port can-take 'a'\''; reboot')");
}

TEST(CanMigrate, RefusesWhatSshWouldTakeForAnOption) {
  for (const auto& to : {Destination{.host = "-oProxyCommand=reboot", .port = "net0"},
                         Destination{.host = "host2", .port = "--socket"}, Destination{.host = "", .port = "net0"}}) {
    const auto words = ssh_words(to);
    ASSERT_FALSE(words.has_value());
    EXPECT_EQ(words.error().code, Errc::invalid_value);
    EXPECT_THAT(words.error().text(), HasSubstr("is no name of a host or port"));
    // Before any daemon is asked.
    EXPECT_EQ(migration_obstacle("/nonexistent.sock", "net0", to).error().code, Errc::invalid_value);
  }
}

TEST(CanMigrate, TheVerdictIsJson) {
  EXPECT_THAT(*migration_verdict(""), HasSubstr("\"can_migrate\": true"));
  EXPECT_THAT(*migration_verdict("a \"b\""), HasSubstr(R"("obstacle": "a \"b\"")"));
}

TEST(CanMigrate, NeedsGoThroughJsonUnchanged) {
  control::v1::GuestNeeds needs;
  needs.set_device_type("blk");
  needs.set_features(~0ULL);
  needs.set_config(std::string("\0\xff", 2));
  needs.add_queues()->set_size(128);
  control::v1::GuestNeeds copy;
  const auto parsed = parse_json(*json(needs), copy);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().text();
  EXPECT_EQ(copy.SerializeAsString(), needs.SerializeAsString());
}

TEST(CanMigrate, WhatIsNotKnownOfNeedsIsNotOverlooked) {
  control::v1::GuestNeeds needs;
  for (const char* text : {"", "no JSON", "[]", R"({"device_type": "net", "wings": 2})", R"({"features": -1})",
                           R"({"config": "not base 64!"})", R"({"queues": [{"index": 4294967296}]})"}) {
    EXPECT_FALSE(parse_json(text, needs).has_value()) << text;
  }
}

}  // namespace
}  // namespace causeway::cli

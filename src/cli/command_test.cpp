#include "cli/command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace causeway::cli {
namespace {

using testing::HasSubstr;

TEST(Command, GetsItsInputAndBothOutputsAndTheStatusAreKeptApart) {
  const auto outcome = run_command({"sh", "-c", "cat; echo \"$1\" >&2; exit 3", "sh", "two words"}, "input\n");
  ASSERT_TRUE(outcome.has_value()) << outcome.error().text();
  EXPECT_EQ(outcome->status, 3);
  EXPECT_EQ(outcome->output, "input\n");
  EXPECT_EQ(outcome->errors, "two words\n");
}

TEST(Command, ThatReadsNothingAndWritesALotEnds) {
  const auto outcome = run_command({"sh", "-c", "yes | head -c 3000000"}, std::string(1 << 20, 'x'));
  ASSERT_TRUE(outcome.has_value()) << outcome.error().text();
  EXPECT_EQ(outcome->status, 0);
  EXPECT_EQ(outcome->output.size(), std::size_t{1} << 20);
}

TEST(Command, WhatItLeavesBehindIsNotWaitedFor) {
  const auto outcome = run_command({"sh", "-c", "sleep 5 & echo done"}, "");
  ASSERT_TRUE(outcome.has_value()) << outcome.error().text();
  EXPECT_EQ(outcome->output, "done\n");
}

TEST(Command, ASignalIsAStatus) {
  const auto outcome = run_command({"sh", "-c", "kill -9 $$"}, "");
  ASSERT_TRUE(outcome.has_value()) << outcome.error().text();
  EXPECT_EQ(outcome->status, 128 + 9);
}

TEST(Command, ThatIsNotThereIsAnErrorThatNamesIt) {
  const auto outcome = run_command({"no-such-program"}, "");
  ASSERT_FALSE(outcome.has_value());
  EXPECT_THAT(outcome.error().text(), HasSubstr("start 'no-such-program'"));
}

}  // namespace
}  // namespace causeway::cli

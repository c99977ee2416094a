#include "port/state_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>

#include "support/temporary_directory.h"

namespace causeway::port {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryDirectory;

std::vector<std::byte> bytes_of(std::size_t size, unsigned value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

struct StateDirectoryTest : ::testing::Test {
  std::shared_ptr<StateDirectory> open() {
    auto opened = StateDirectory::open(place.path() / "state");
    EXPECT_TRUE(opened) << opened.error().text();
    return *opened;
  }
  TemporaryDirectory place;
};

TEST_F(StateDirectoryTest, KeepsWhatIsSaved) {
  const auto state = open();
  EXPECT_FALSE(state->load("a")->has_value());
  ASSERT_TRUE(state->save("a", bytes_of(9000, 1)));
  ASSERT_TRUE(state->save("a", bytes_of(5, 2)));
  EXPECT_EQ(**state->load("a"), bytes_of(5, 2));
  state->remove("a");
  EXPECT_FALSE(state->load("a")->has_value());
}

TEST_F(StateDirectoryTest, IsForItsOwnerOnly) {
  const auto state = open();
  EXPECT_EQ(std::filesystem::status(state->path()).permissions(), std::filesystem::perms::owner_all);
}

TEST_F(StateDirectoryTest, BelongsToOneAtATime) {
  {
    const auto first = open();
    auto lock = first->lock().duplicate();
    EXPECT_TRUE(StateDirectory::open(first->path(), std::move(*lock))) << "handed over";
  }
  EXPECT_TRUE(open());
}

TEST_F(StateDirectoryTest, ThatCannotBeMadeIsAnErrorThatNamesIt) {
  const auto opened = StateDirectory::open(place.path() / "missing" / "state");
  ASSERT_FALSE(opened);
  EXPECT_THAT(opened.error().text(), HasSubstr("missing/state"));
}

TEST_F(StateDirectoryTest, WhatCannotBeSavedLeavesNothingOld) {
  const auto state = open();
  ASSERT_TRUE(state->save("a", bytes_of(5, 1)));
  std::filesystem::create_directory(state->path_of("a.new"));
  EXPECT_FALSE(state->save("a", bytes_of(5, 2)));
  EXPECT_FALSE(state->load("a")->has_value());
}

TEST_F(StateDirectoryTest, AFileToBeMappedKeepsItsContentsAsLongAsItKeepsItsSize) {
  const auto state = open();
  {
    const auto file = state->open_file("q", 8192);
    ASSERT_TRUE(file);
    EXPECT_EQ(::pwrite(file->borrow(), "x", 1, 100), 1);
  }
  const auto byte_at_100 = [&](std::uint64_t size) {
    const auto file = state->open_file("q", size);
    char byte = 'e';
    EXPECT_EQ(::pread(file->borrow(), &byte, 1, 100), 1);
    return byte;
  };
  EXPECT_EQ(byte_at_100(8192), 'x');
  EXPECT_EQ(byte_at_100(4096), '\0');
}

constexpr unsigned kLargest = 80 * 256;

/// Writes one version after the other, each of another size and all of one value, until it is killed.
[[noreturn]] void save_for_ever(const StateDirectory& state) {
  for (unsigned version = 0;; ++version) {
    if (!state.save("a", bytes_of(1 + version % kLargest, version))) ::_exit(1);
  }
}

TEST_F(StateDirectoryTest, AfterASigkillHasTheOldOrTheNewAndNoMixture) {
  constexpr int kKills = 200;
  std::mt19937 random(std::random_device{}());
  std::uniform_int_distribution<int> microseconds(0, 3000);
  ASSERT_TRUE(open()->save("a", bytes_of(1, 0)));
  for (int i = 0; i < kKills; ++i) {
    {
      const auto state = open();
      const pid_t child = ::fork();
      if (child == 0) save_for_ever(*state);
      std::this_thread::sleep_for(std::chrono::microseconds(microseconds(random)));
      ::kill(child, SIGKILL);
      ::waitpid(child, nullptr, 0);
    }
    const auto state = open();
    const auto found = state->load("a");
    ASSERT_TRUE(found && *found);
    const auto& bytes = **found;
    ASSERT_TRUE(std::ranges::all_of(bytes, [&](std::byte byte) { return byte == bytes.front(); })) << "a mixture";
    ASSERT_EQ(static_cast<unsigned>(bytes.size() - 1) % 256, std::to_integer<unsigned>(bytes.front()) % 256)
        << "not whole";
    EXPECT_FALSE(std::filesystem::exists(state->path_of("a.new"))) << "what was not finished is left";
  }
}

}  // namespace
}  // namespace causeway::port

#include "vdpa/vfio_groups.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <fcntl.h>

#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace causeway::vdpa {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::array kFiles{"/dev/null", "/dev/zero", "/dev/full"};

/// Character devices stand for groups.
OwnedFd open_group(std::size_t which) {
  return OwnedFd::adopt(::open(kFiles.at(which), O_RDWR | O_CLOEXEC));
}

std::string path_of(const OwnedFd& fd) {
  return std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", fd.borrow())).native();
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

/// As KVM's VFIO device: knows each group once, and takes it back only by what it was given.
class TheUser {
 public:
  VfioGroups groups{[this](const OwnedFd& group) { return add(group); },
                    [this](const OwnedFd& group) { return remove(group); }};
  std::map<std::string, int> known;  // by path: the descriptor that it was added by
  std::vector<std::string> told;
  bool refuses = false;

 private:
  Result<void> add(const OwnedFd& group) {
    if (refuses) return fail(Errc::invalid_value, "no group");
    told.push_back("+" + path_of(group));
    EXPECT_TRUE(known.emplace(path_of(group), group.borrow()).second) << "added twice";
    return {};
  }
  Result<void> remove(const OwnedFd& group) {
    told.push_back("-" + path_of(group));
    EXPECT_EQ(known[path_of(group)], group.borrow());
    known.erase(path_of(group));
    return {};
  }
};

TEST(VfioGroups, OneIsAddedWithItsFirstShareAndRemovedWithItsLast) {
  TheUser user;
  auto first = user.groups.share(open_group(0)).value();
  auto second = user.groups.share(open_group(0)).value();
  auto other = user.groups.share(open_group(1)).value();
  EXPECT_EQ(first, second);
  first.reset();
  EXPECT_THAT(user.told, ElementsAre("+/dev/null", "+/dev/zero"));
  second.reset();
  EXPECT_THAT(user.told, ElementsAre("+/dev/null", "+/dev/zero", "-/dev/null"));
  EXPECT_EQ(user.groups.count(), 1U);
  second = user.groups.share(open_group(0)).value();
  EXPECT_THAT(user.told, ElementsAre("+/dev/null", "+/dev/zero", "-/dev/null", "+/dev/null"));
}

TEST(VfioGroups, WhatIsRefusedIsNotKept) {
  TheUser user;
  user.refuses = true;
  const std::size_t before = open_descriptors();
  const auto share = user.groups.share(open_group(0));
  ASSERT_FALSE(share);
  EXPECT_EQ(share.error().text(), "no group");
  EXPECT_EQ(user.groups.count(), 0U);
  EXPECT_EQ(open_descriptors(), before);
}

TEST(VfioGroups, AFileThatIsNoCharacterDeviceIsNoGroup) {
  TheUser user;
  const auto share = user.groups.share(*make_memfd("no-group", 4096));
  ASSERT_FALSE(share);
  EXPECT_EQ(share.error().code, Errc::invalid_value);
  EXPECT_THAT(share.error().text(), HasSubstr("of no VFIO group"));
  EXPECT_TRUE(user.told.empty());
}

// Any number of queues of any number of Devices, which take shares of groups and give them back in any order.
RC_GTEST_PROP(VfioGroups, AreKnownExactlyWhileSomebodyHasAShare, (const std::vector<std::uint8_t>& steps)) {
  const std::size_t before = open_descriptors();
  TheUser user;
  std::array<std::optional<std::pair<std::size_t, VfioGroups::Share>>, 8> queues;
  for (const std::uint8_t step : steps) {
    auto& queue = queues.at(step % 8);
    const std::size_t which = step / 8U % 4U;
    if (which == kFiles.size()) {
      queue.reset();
    } else {
      queue.emplace(which, user.groups.share(open_group(which)).value());
    }
    std::size_t wanted = 0;
    for (std::size_t file = 0; file < kFiles.size(); ++file) {
      const bool is_used = std::ranges::any_of(queues, [&](const auto& each) { return each && each->first == file; });
      RC_ASSERT(user.known.contains(kFiles.at(file)) == is_used);
      wanted += is_used ? 1U : 0U;
    }
    RC_ASSERT(user.groups.count() == wanted);
    RC_ASSERT(open_descriptors() == before + wanted);
  }
}

}  // namespace
}  // namespace causeway::vdpa

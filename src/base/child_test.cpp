#include "base/child.h"

#include "base/unix_socket.h"

#include <gtest/gtest.h>

#include <poll.h>

#include <array>
#include <csignal>
#include <string>

namespace causeway {
namespace {

/// Waits until the peer has said something or has gone.
std::string heard_on(const UnixSocket& socket) {
  pollfd entry{.fd = socket.fd().borrow(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&entry, 1, 30'000), 1);
  std::array<std::byte, 64> buffer{};
  const auto received = socket.receive(buffer);
  EXPECT_TRUE(received);
  std::string text;
  for (std::size_t i = 0; received && i < received->bytes; ++i) text += static_cast<char>(buffer[i]);
  return text;
}

struct ChildTest : ::testing::Test {
  Result<Child> shell(const std::string& script) {
    const std::array<std::string, 2> arguments{"-c", script};
    auto child = Child::start("/bin/sh", arguments, pair_.second.fd());
    return child;
  }
  std::pair<UnixSocket, UnixSocket> pair_ = *UnixSocket::make_pair();
};

TEST_F(ChildTest, HasTheDescriptorThatItIsGivenAndNoOther) {
  const auto child = shell("ls /proc/self/fd | tr '\\n' ' ' >&3");
  ASSERT_TRUE(child) << child.error().text();
  // 4 is the directory that ls reads.
  EXPECT_EQ(heard_on(pair_.first), "0 1 2 3 4 ");
}

TEST_F(ChildTest, IsGoneWhenKillReturns) {
  auto child = shell("echo ready >&3; exec sleep 1000");
  ASSERT_TRUE(child);
  const pid_t pid = child->pid();
  EXPECT_EQ(heard_on(pair_.first), "ready\n");
  child->kill();
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST_F(ChildTest, WhatIsNoProgramIsAnErrorThatNamesIt) {
  const auto child = Child::start("/nonexistent/program", {}, pair_.second.fd());
  ASSERT_FALSE(child);
  EXPECT_NE(child.error().text().find("/nonexistent/program"), std::string::npos);
}

}  // namespace
}  // namespace causeway

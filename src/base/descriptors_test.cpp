// Owned descriptors, eventfds, sockets that carry descriptors.

#include "base/event_fd.h"
#include "base/unix_socket.h"

#include <gtest/gtest.h>

#include <sys/resource.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <optional>

namespace causeway {
namespace {

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

std::filesystem::path scratch_socket() {
  return std::filesystem::temp_directory_path() / ("causeway-test-" + std::to_string(::getpid()) + ".sock");
}

TEST(OwnedFd, ClosesExactlyOnce) {
  const std::size_t before = open_descriptors();
  {
    auto first = make_memfd("one", 1);
    ASSERT_TRUE(first);
    OwnedFd second(std::move(*first));
    auto third = second.duplicate();
    ASSERT_TRUE(third);
    *third = std::move(second);
    EXPECT_EQ(open_descriptors(), before + 1);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(EventFd, IsDrainedToZero) {
  auto event = EventFd::make();
  ASSERT_TRUE(event);
  EXPECT_FALSE(event->drain());
  event->signal();
  event->signal();
  EXPECT_TRUE(event->drain());
  EXPECT_FALSE(event->drain());
}

TEST(EventFd, RefusesWhatIsNoEventfd) {
  auto file = make_memfd("no-event", 8);
  ASSERT_TRUE(file);
  const auto event = EventFd::adopt(std::move(*file));
  ASSERT_FALSE(event);
  EXPECT_EQ(event.error().code, Errc::peer_violation);
}

TEST(UnixSocket, CarriesDescriptorsWithTheFirstByte) {
  auto pair = UnixSocket::make_pair();
  ASSERT_TRUE(pair);
  auto file = make_memfd("carried", 4096);
  ASSERT_TRUE(file);
  const std::array<const OwnedFd*, 1> fds{&*file};
  ASSERT_TRUE(pair->first.send(std::array{std::byte{1}, std::byte{2}}, fds));
  std::array<std::byte, 8> buffer{};
  auto received = pair->second.receive(buffer);
  ASSERT_TRUE(received);
  EXPECT_EQ(received->bytes, 2U);
  ASSERT_EQ(received->fds.size(), 1U);
  EXPECT_EQ(*identify(received->fds[0]), *identify(*file));
  received = pair->second.receive(buffer);
  ASSERT_TRUE(received);
  EXPECT_EQ(received->bytes, 0U);
  EXPECT_FALSE(received->closed) << "nothing there is not the end";
}

TEST(UnixSocket, TellsTheEndFromNothingToRead) {
  auto pair = UnixSocket::make_pair();
  ASSERT_TRUE(pair);
  {
    const UnixSocket gone = std::move(pair->first);
  }
  std::array<std::byte, 8> buffer{};
  const auto received = pair->second.receive(buffer);
  ASSERT_TRUE(received);
  EXPECT_TRUE(received->closed);
}

TEST(UnixSocket, SaysWhenDescriptorsWereLostForWantOfRoom) {
  auto pair = UnixSocket::make_pair();
  auto file = make_memfd("lost", 4096);
  ASSERT_TRUE(pair && file);
  const std::array<const OwnedFd*, 2> fds{&*file, &*file};
  ASSERT_TRUE(pair->first.send(std::array{std::byte{1}}, fds));
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &old), 0);
  const rlimit none{.rlim_cur = 3, .rlim_max = old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  std::array<std::byte, 8> buffer{};
  const auto received = pair->second.receive(buffer);
  ::setrlimit(RLIMIT_NOFILE, &old);
  ASSERT_TRUE(received);
  EXPECT_TRUE(received->truncated);
}

TEST(UnixListener, ReplacesASocketThatNobodyServes) {
  const auto path = scratch_socket();
  {
    auto first = UnixListener::bind(path);
    ASSERT_TRUE(first) << first.error().text();
    const auto second = UnixListener::bind(path);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Errc::busy);
    // The file of a process that was killed: still there, with nobody behind it.
    std::filesystem::rename(path, path.string() + ".kept");
  }
  std::filesystem::rename(path.string() + ".kept", path);
  auto again = UnixListener::bind(path);
  ASSERT_TRUE(again) << again.error().text();
  EXPECT_TRUE(std::filesystem::is_socket(path));
}

TEST(UnixListener, IsHandedOverWithItsPath) {
  const auto path = scratch_socket();
  std::optional<UnixListener> successor;
  {
    auto first = UnixListener::bind(path);
    ASSERT_TRUE(first);
    auto taken = UnixListener::adopt(*first->fd().duplicate(), path);
    ASSERT_TRUE(taken);
    successor.emplace(std::move(*taken));
    first->leave_path();
  }
  ASSERT_TRUE(UnixSocket::connect(path));
  EXPECT_TRUE(successor->accept());
  successor.reset();
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(UnixListener, IsNotMadeOfWhatDoesNotListen) {
  auto pair = UnixSocket::make_pair();
  ASSERT_TRUE(pair);
  const auto refused = UnixListener::adopt(*pair->first.fd().duplicate(), scratch_socket());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::invalid_value);
}

TEST(UnixListener, RemovesItsPathAndSparesWhatIsNoSocket) {
  const auto path = scratch_socket();
  {
    ASSERT_TRUE(UnixListener::bind(path));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  std::ofstream(path) << "precious";
  const auto refused = UnixListener::bind(path);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(std::filesystem::exists(path));
  std::filesystem::remove(path);
}

TEST(UnixListener, RefusesAPathThatIsTooLong) {
  const auto refused = UnixListener::bind("/tmp/" + std::string(200, 'x'));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::invalid_value);
}

}  // namespace
}  // namespace causeway

// Real taps, each test in a network namespace of its own. Needs root, and says so when it is not.

#include "net/tap_device.h"

#include "net/test_host.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <linux/if_tun.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

namespace causeway::net {
namespace {

using testing::ask, testing::HostSocket, testing::in_own_network, testing::kPatience, testing::make_frame;

OwnedFd must_open_tun() {
  return OwnedFd::adopt(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
}

/// Makes an interface that stays when it is closed, as `ip tuntap add` does.
void make_persistent(const std::string& name, int flags) {
  const auto fd = must_open_tun();
  ifreq request = testing::named(name);
  request.ifr_flags = static_cast<short>(flags);
  ASSERT_EQ(::ioctl(fd.borrow(), TUNSETIFF, &request), 0) << std::strerror(errno);
  ASSERT_EQ(::ioctl(fd.borrow(), TUNSETPERSIST, 1UL), 0);
}

iovec part_of(std::span<std::byte> bytes) {
  return {.iov_base = bytes.data(), .iov_len = bytes.size()};
}

bool is_test_frame(std::span<const std::byte> frame) {
  return frame.size() >= 14 && frame[12] == std::byte{testing::kEtherTypeTest >> 8} &&
         frame[13] == std::byte{testing::kEtherTypeTest & 0xff};
}

/// The next frame of the test's that the queue holds, header included; the host sends frames of its own too.
std::vector<std::byte> next_from(const TapDevice& tap, std::uint16_t queue, std::size_t header = 12,
                                 int patience = kPatience) {
  for (;;) {
    pollfd waiting{.fd = tap.queue(queue).borrow(), .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, patience) != 1) return {};
    std::vector<std::byte> bytes(70000);
    const std::array parts{part_of(bytes)};
    const auto got = tap.read(queue, parts);
    EXPECT_TRUE(got) << got.error().text();
    if (!got) return {};
    bytes.resize(*got);
    if (bytes.size() > header && is_test_frame(std::span(bytes).subspan(header))) return bytes;
  }
}

std::vector<std::byte> without_header(const std::vector<std::byte>& bytes, std::ptrdiff_t header = 12) {
  return bytes.size() < static_cast<std::size_t>(header) ? bytes : std::vector(bytes.begin() + header, bytes.end());
}

TapDevice must_open(const std::string& name, std::uint16_t queues) {
  auto tap = TapDevice::open(name, queues);
  if (!tap) ADD_FAILURE() << tap.error().text();
  return std::move(tap).value();
}

TEST(TapDevice, MakesAnInterfaceTakesItUpAndRemovesItInTheEnd) {
  in_own_network([] {
    {
      const TapDevice tap = must_open("cw-tap0", 1);
      EXPECT_EQ(tap.queue_count(), 1);
      const auto flags = ask(SIOCGIFFLAGS, "cw-tap0");
      ASSERT_TRUE(flags);
      EXPECT_NE(flags->ifr_flags & IFF_UP, 0);
      EXPECT_NE(::fcntl(tap.queue(0).borrow(), F_GETFL) & O_NONBLOCK, 0);
    }
    EXPECT_FALSE(ask(SIOCGIFFLAGS, "cw-tap0"));
  });
}

TEST(TapDevice, CarriesFramesBothWaysWithTheirHeader) {
  in_own_network([] {
    const TapDevice tap = must_open("cw-tap0", 1);
    const HostSocket host("cw-tap0");
    for (const std::uint32_t size : {12U, 10U}) {
      ASSERT_TRUE(tap.set_header_size(size));
      const auto to_guest = make_frame(1000, 1);
      host.send(to_guest);
      const auto got = next_from(tap, 0, size);
      EXPECT_EQ(without_header(got, size), to_guest) << size;

      auto to_host = make_frame(1514, 2);
      std::array<std::byte, 12> header{};
      // In three parts, as they lie in a driver's buffers.
      const std::array parts{part_of(std::span(header).first(size)), part_of(std::span(to_host).first(14)),
                             part_of(std::span(to_host).subspan(14))};
      const auto sent = tap.write(0, parts);
      ASSERT_TRUE(sent) << sent.error().text();
      EXPECT_EQ(*sent, size + to_host.size());
      EXPECT_EQ(host.receive(), to_host) << size;
    }
  });
}

TEST(TapDevice, ReadOfAnEmptyQueueDoesNotWait) {
  in_own_network([] {
    const TapDevice tap = must_open("cw-tap0", 1);
    std::vector<std::byte> bytes(2000);
    const std::array parts{part_of(bytes)};
    // The host's own frames (IPv6) may be there; they end.
    std::size_t last = 1;
    for (int tries = 0; tries < 100 && last != 0; ++tries) {
      const auto got = tap.read(0, parts);
      ASSERT_TRUE(got) << got.error().text();
      last = *got;
    }
    EXPECT_EQ(last, 0U);
  });
}

TEST(TapDevice, SaysWhatIsWrongWithAFrameItRefuses) {
  in_own_network([] {
    const TapDevice tap = must_open("cw-tap0", 1);
    std::array<std::byte, 5> header{};
    const std::array parts{part_of(header)};
    const auto sent = tap.write(0, parts);
    ASSERT_FALSE(sent);
    EXPECT_NE(sent.error().text().find("tap cw-tap0: write"), std::string::npos) << sent.error().text();
  });
}

TEST(TapDevice, ADetachedQueueGetsNothingUntilItIsAttachedAgain) {
  in_own_network([] {
    constexpr std::uint16_t kQueues = 4;
    TapDevice tap = must_open("cw-tap0", kQueues);
    const HostSocket host("cw-tap0");
    for (std::uint16_t i = 1; i < kQueues; ++i) ASSERT_TRUE(tap.detach_queue(i)) << i;
    for (std::uint8_t flow = 0; flow < 64; ++flow) {
      const auto frame = make_frame(200, flow);
      host.send(frame);
      ASSERT_EQ(without_header(next_from(tap, 0)), frame) << "flow " << int{flow};
    }
    std::vector<std::byte> bytes(2000);
    const std::array parts{part_of(bytes)};
    EXPECT_EQ(*tap.read(1, parts), 0U);
    EXPECT_TRUE(tap.detach_queue(1)) << "twice is no error";
    for (std::uint16_t i = 1; i < kQueues; ++i) ASSERT_TRUE(tap.attach_queue(i)) << i;
    EXPECT_TRUE(tap.attach_queue(1)) << "twice is no error";
    auto frame = make_frame(300, 9);
    std::array<std::byte, 12> header{};
    const std::array out{part_of(header), part_of(frame)};
    EXPECT_TRUE(tap.write(3, out));
    EXPECT_EQ(host.receive(), frame);
  });
}

TEST(TapDevice, KeepsItsFirstQueue) {
  in_own_network([] {
    TapDevice tap = must_open("cw-tap0", 2);
    EXPECT_FALSE(tap.detach_queue(0));
    EXPECT_TRUE(tap.attach_queue(0));
    EXPECT_FALSE(tap.detach_queue(2));
    EXPECT_FALSE(tap.attach_queue(2));
    ASSERT_TRUE(tap.detach_queue(1));
    EXPECT_TRUE(tap.set_offloads({.csum = true})) << "with a queue detached";
    EXPECT_TRUE(tap.set_header_size(10)) << "with a queue detached";
  });
}

TEST(TapDevice, ReportsWhichOffloadsTheKernelLeaves) {
  in_own_network([] {
    const TapDevice tap = must_open("cw-tap0", 1);
    const TapOffloads all{.csum = true, .tso4 = true, .tso6 = true, .ecn = true, .uso = true};
    auto accepted = tap.set_offloads(all);
    ASSERT_TRUE(accepted) << accepted.error().text();
    accepted->uso = true;  // depends on the kernel
    EXPECT_EQ(*accepted, all);
    const TapOffloads no_csum{.tso4 = true, .tso6 = true, .ecn = true, .uso = true};
    EXPECT_EQ(*tap.set_offloads(no_csum), TapOffloads{}) << "nothing goes without checksums";
    const TapOffloads no_tso{.csum = true, .ecn = true};
    EXPECT_EQ(*tap.set_offloads(no_tso), TapOffloads{.csum = true});
    EXPECT_EQ(*tap.set_offloads({}), TapOffloads{});
  });
}

TEST(TapDevice, SetsTheMtu) {
  in_own_network([] {
    const TapDevice tap = must_open("cw-tap0", 1);
    ASSERT_TRUE(tap.set_mtu(9000));
    EXPECT_EQ(ask(SIOCGIFMTU, "cw-tap0")->ifr_mtu, 9000);
    const auto refused = tap.set_mtu(67);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().text().find("MTU of 67"), std::string::npos) << refused.error().text();
  });
}

TEST(TapDevice, UsesAPersistentInterfaceAndLeavesIt) {
  in_own_network([] {
    make_persistent("cw-one", IFF_TAP | IFF_NO_PI);
    make_persistent("cw-many", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_VNET_HDR);
    {
      const TapDevice one = must_open("cw-one", 1);
      const TapDevice many = must_open("cw-many", 3);
      const HostSocket host("cw-one");
      host.send(make_frame(100));
      EXPECT_EQ(next_from(one, 0).size(), 112U) << "with a header, though it was made without";
    }
    EXPECT_TRUE(ask(SIOCGIFFLAGS, "cw-one"));
    EXPECT_TRUE(ask(SIOCGIFFLAGS, "cw-many"));
    EXPECT_TRUE(TapDevice::open("cw-many", 1)) << "one queue of an interface for several";
    const auto refused = TapDevice::open("cw-one", 2);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().text().find("without multi_queue"), std::string::npos) << refused.error().text();
  });
}

TEST(TapDevice, SaysWhenAnotherHasTheInterface) {
  in_own_network([] {
    const TapDevice tap = must_open("cw-tap0", 1);
    const auto second = TapDevice::open("cw-tap0", 1);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Errc::busy) << second.error().text();
    const auto no_tap = TapDevice::open("lo", 1);
    ASSERT_FALSE(no_tap);
    EXPECT_NE(no_tap.error().text().find("is no tap"), std::string::npos) << no_tap.error().text();
  });
}

TEST(TapDevice, RefusesBadNamesAndNumbersOfQueues) {
  in_own_network([] {
    for (const char* name : {"", "sixteen-letters-", "tap%d", "a/b", "a b", "a:b"}) {
      const auto refused = TapDevice::open(name, 1);
      ASSERT_FALSE(refused) << name;
      EXPECT_EQ(refused.error().code, Errc::invalid_value) << name;
    }
    EXPECT_TRUE(TapDevice::open("fifteen-letters", 1));
    EXPECT_EQ(TapDevice::open("cw-tap0", 0).error().code, Errc::invalid_value);
    EXPECT_EQ(TapDevice::open("cw-tap0", 257).error().code, Errc::invalid_value);
    EXPECT_FALSE(ask(SIOCGIFFLAGS, "cw-tap0")) << "nothing is left of an attempt";
  });
}

TEST(TapDevice, NamesThePrivilegeItLacks) {
  in_own_network([] {
    // The bare system call: the C library's would change all threads.
    ASSERT_EQ(::syscall(SYS_setresuid, -1, 65534, -1), 0);
    const auto refused = TapDevice::open("cw-tap0", 1);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().text().find("CAP_NET_ADMIN"), std::string::npos) << refused.error().text();
  });
}

}  // namespace
}  // namespace causeway::net

// The host's side of a tap, for tests: a network of its own, and a socket on the interface. Needs root.
#pragma once

#include "base/owned_fd.h"
#include "net/ethernet.h"

#include <gtest/gtest.h>

#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <bit>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace causeway::net::testing {

inline constexpr std::uint16_t kEtherTypeTest = 0x88b5;
inline constexpr auto kPatience = 5000;  // ms

/// Runs `body` on a thread that has a network of its own, which ends with it.
inline void in_own_network(const std::function<void()>& body) {
  std::thread([&body] {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0) << "needs root: " << std::strerror(errno);
    body();
  }).join();
}

inline ifreq named(const std::string& name) {
  ifreq request{};
  name.copy(static_cast<char*>(request.ifr_name), IFNAMSIZ - 1);
  return request;
}

/// What an interface ioctl says of `name`; nothing when there is no such interface.
inline std::optional<ifreq> ask(unsigned long what, const std::string& name) {
  const auto socket = OwnedFd::adopt(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = named(name);
  if (::ioctl(socket.borrow(), what, &request) != 0) return std::nullopt;
  return request;
}

/// The host's end: a socket that sends and receives frames of the test's type on the interface.
class HostSocket {
 public:
  explicit HostSocket(const std::string& name)
      : fd_(OwnedFd::adopt(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, network_order(kEtherTypeTest)))) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = network_order(kEtherTypeTest);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(name.c_str()));
    EXPECT_EQ(::bind(fd_.borrow(), std::bit_cast<const sockaddr*>(&address), sizeof address), 0)
        << std::strerror(errno);
  }

  void send(std::span<const std::byte> frame) const {
    EXPECT_EQ(::send(fd_.borrow(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()))
        << std::strerror(errno);
  }

  std::vector<std::byte> receive() const {
    pollfd waiting{.fd = fd_.borrow(), .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, kPatience) != 1) return {};
    std::vector<std::byte> frame(70000);
    const auto size = ::recv(fd_.borrow(), frame.data(), frame.size(), 0);
    frame.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
    return frame;
  }

 private:
  static constexpr std::uint16_t network_order(std::uint16_t value) {
    return std::endian::native == std::endian::little ? std::byteswap(value) : value;
  }
  OwnedFd fd_;
};

inline std::vector<std::byte> make_frame(std::size_t size, std::uint8_t number = 0) {
  std::vector<std::byte> frame(size, std::byte{number});
  const EthernetHeader header{.destination = {{255, 255, 255, 255, 255, 255}},
                              .source = {{0x52, 0x54, 0, 0, 0, number}},
                              .ether_type = {kEtherTypeTest >> 8, kEtherTypeTest & 0xff}};
  std::memcpy(frame.data(), &header, sizeof header);
  return frame;
}

}  // namespace causeway::net::testing

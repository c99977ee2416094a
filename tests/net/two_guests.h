// Two guests on one switch, each port with two software NICs between which its queues can move.
#pragma once

#include "base/loop.h"
#include "net/nic.h"
#include "net/switch.h"
#include "port/port.h"

#include <memory>
#include <string>
#include <vector>

#include "support/fake_guest.h"
#include "support/guest_memory.h"

namespace causeway::testing {

inline constexpr net::MacAddress kMacA{{0x52, 0x54, 0, 0, 0, 0xa}};
inline constexpr net::MacAddress kMacB{{0x52, 0x54, 0, 0, 0, 0xb}};

inline std::unique_ptr<port::Port> make_nic_port(Loop& loop, const std::shared_ptr<net::Link>& link,
                                                 net::MacAddress mac, std::uint16_t pairs,
                                                 std::shared_ptr<const port::StateDirectory> state = nullptr) {
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  for (const char* name : {"soft-a", "soft-b"}) {
    const net::NicConfig config{.name = name, .mac = mac, .queue_pairs = pairs, .mtu = std::nullopt};
    devices.push_back(value_or_die(net::Nic::make(loop, config, link)));
  }
  return value_or_die(port::Port::make(loop, {.name = link->name(), .features_off = {}, .state = std::move(state)},
                                       std::move(devices)));
}

/// Members in the order in which they depend on each other.
struct TwoGuests {
  explicit TwoGuests(const FakeGuestConfig& config_a, const FakeGuestConfig& config_b,
                     Polling polling = Polling::adaptive, std::optional<unsigned> cpu = std::nullopt)
      : worker(value_or_die(Worker::start({.name = "test", .polling = polling, .cpu = cpu}))),
        bridge(*worker, "sw0"),
        port_a(make_nic_port(loop, bridge.add_port("a"), kMacA, config_a.queue_pairs)),
        port_b(make_nic_port(loop, bridge.add_port("b"), kMacB, config_b.queue_pairs)),
        a(value_or_die(FakeGuest::plug_in(*port_a, config_a))),
        b(value_or_die(FakeGuest::plug_in(*port_b, config_b))) {}

  Loop loop;
  std::unique_ptr<Worker> worker;
  net::Switch bridge;
  std::unique_ptr<port::Port> port_a;
  std::unique_ptr<port::Port> port_b;
  std::unique_ptr<FakeGuest> a;
  std::unique_ptr<FakeGuest> b;
};

}  // namespace causeway::testing

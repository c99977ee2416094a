// What a driver has decided by the control virtqueue goes to a port elsewhere, and is in force there.

#include "port/device_state.h"

#include "net/control_commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace causeway::testing {
namespace {

using port::DeviceState;
using ::testing::HasSubstr;
using virtio::Feature, virtio::NetFeature;

constexpr net::MacAddress kStranger{{0x52, 0x54, 0, 0, 0, 0xc}};
constexpr net::MacAddress kSecond{{0x52, 0x54, 0, 0, 0, 0xd}};
const FakeGuestConfig kControlled{
    .features = virtio::FeatureSet{NetFeature::ctrl_vq, NetFeature::ctrl_rx, NetFeature::ctrl_mac_addr, NetFeature::mq}
                    .with(NetFeature::ctrl_vlan)
                    .with(NetFeature::rss),
    .queue_pairs = 2,
    .ring_size = 64};

/// B has a port, and another one elsewhere, on the same switch.
struct DeviceStateTest : ::testing::Test {
  DeviceStateTest() : elsewhere(make_nic_port(net.loop, net.bridge.add_port("c"), kMacB, 2)) {}
  ~DeviceStateTest() override { net.b.reset(); }  // it may be on the other port

  void command(const ControlCommand& sent) { ASSERT_EQ(answer_of(net, sent), virtio::kCtrlOk); }
  std::vector<std::byte> save() {
    for (std::uint16_t i = 0; i < net.port_b->queue_count(); ++i) {
      EXPECT_TRUE(net.port_b->stop_queue(virtio::QueueIndex{i}));
    }
    return value_or_die(net.port_b->save_device_state());
  }
  DeviceState saved() { return value_or_die(port::decode_device_state(save())); }
  /// Loads before anything is negotiated, and moves the guest.
  void move(std::span<const std::byte> state) {
    const auto loaded = elsewhere->load_device_state(state);
    ASSERT_TRUE(loaded) << loaded.error().text();
    net.port_b->detach();
    const auto moved = net.b->move_to(*elsewhere);
    ASSERT_TRUE(moved) << moved.error().text();
  }
  std::string refusal(const DeviceState& state) { return refusal(port::encode(state)); }
  std::string refusal(std::span<const std::byte> bytes) {
    const auto loaded = elsewhere->load_device_state(bytes);
    return loaded ? "it is taken" : loaded.error().text();
  }
  bool is_untouched() {
    const auto now = value_or_die(port::decode_device_state(value_or_die(elsewhere->save_device_state())));
    return now.commands.empty() && now.config.empty() && elsewhere->features() == virtio::FeatureSet();
  }

  /// Sends to each of them, then to B's own address; the lengths of what B gets tell which came.
  std::vector<std::size_t> arrivals(std::initializer_list<net::MacAddress> addresses) {
    std::vector<net::MacAddress> all(addresses);
    all.push_back(kMacB);
    send_to_each(net, all);
    std::vector<std::size_t> sizes;
    const auto end = std::chrono::steady_clock::now() + kWaitLimit;
    while (std::chrono::steady_clock::now() < end) {
      for (const std::uint16_t pair : {std::uint16_t{0}, std::uint16_t{1}}) {
        const auto arrival = net.b->receive(pair);
        if (!arrival) continue;
        sizes.push_back(arrival->frame.size());
        if (sizes.back() + 1 == kFirstLength + all.size()) return sizes;
      }
    }
    return sizes;
  }

  TwoGuests net{{}, kControlled};
  std::unique_ptr<port::Port> elsewhere;
};

/// CTRL_MAC_TABLE_SET with one unicast address.
ControlCommand mac_table(const net::MacAddress& address) {
  ControlCommand command(1, 0);
  command.put(1, 4);
  for (const auto byte : address.bytes) command.put(static_cast<std::uint64_t>(byte), 1);
  return command.put(0, 4);
}

TEST_F(DeviceStateTest, FiltersAreInForceElsewhere) {
  command(ControlCommand(0, 0).put(0, 1));  // not promiscuous
  command(mac_table(kSecond));
  EXPECT_EQ(arrivals({kStranger, kSecond}), (std::vector<std::size_t>{101, 102}));
  move(save());
  EXPECT_EQ(arrivals({kStranger, kSecond}), (std::vector<std::size_t>{101, 102}));
}

TEST_F(DeviceStateTest, WhatIsLoadedIsSavedAgain) {
  command(ControlCommand(0, 0).put(0, 1));
  command(ControlCommand(2, 0).put(7, 2));  // VLAN 7
  command(ControlCommand(4, 0).put(2, 2));  // two pairs
  const auto state = save();
  const auto commands = value_or_die(port::decode_device_state(state)).commands;
  EXPECT_EQ(commands.size(), 3U);
  ASSERT_TRUE(elsewhere->load_device_state(state));
  EXPECT_EQ(elsewhere->features(), net.port_b->features());
  EXPECT_EQ(value_or_die(elsewhere->save_device_state()), state);
}

TEST_F(DeviceStateTest, TheTableOfRssGoesAlong) {
  command(rss_config(1, 1, {1, 1}, 2, 0x5a));
  const auto state = save();
  ASSERT_TRUE(elsewhere->load_device_state(state));
  EXPECT_EQ(value_or_die(elsewhere->save_device_state()), state);
}

TEST_F(DeviceStateTest, TakesThePlaceOfWhatWasThere) {
  command(ControlCommand(0, 0).put(0, 1));
  const DeviceState quiet = saved();
  ASSERT_TRUE(elsewhere->load_device_state(port::encode(quiet)));
  DeviceState other = quiet;
  other.commands.clear();
  ASSERT_TRUE(elsewhere->load_device_state(port::encode(other)));
  move(port::encode(other));
  EXPECT_EQ(arrivals({kStranger}), (std::vector<std::size_t>{100, 101})) << "promiscuous, as a device after its reset";
}

TEST_F(DeviceStateTest, IsNeitherSavedNorLoadedWhileQueuesRun) {
  EXPECT_FALSE(net.port_b->save_device_state());
  DeviceState empty;
  empty.features = net.port_b->features();
  empty.control_queue = 4;
  const auto loaded = net.port_b->load_device_state(port::encode(empty));
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, Errc::peer_violation);
}

TEST_F(DeviceStateTest, OfAnotherDeviceIsRefusedAndNothingChanges) {
  command(ControlCommand(0, 0).put(0, 1));
  const DeviceState good = saved();
  DeviceState wrong = good;
  wrong.type = virtio::DeviceType::block;
  EXPECT_THAT(refusal(wrong), HasSubstr("type 2"));
  wrong = good;
  wrong.features = wrong.features.with(NetFeature::standby);
  EXPECT_THAT(refusal(wrong), HasSubstr("does not offer"));
  wrong = good;
  wrong.control_queue = 2;
  EXPECT_THAT(refusal(wrong), HasSubstr("control queue"));
  wrong = good;
  wrong.config[1 << 20] = std::byte{1};
  EXPECT_THAT(refusal(wrong), HasSubstr("configuration space"));
  EXPECT_TRUE(is_untouched());
  EXPECT_EQ(refusal(good), "it is taken");
}

TEST_F(DeviceStateTest, OfWhichADeviceRefusesAPartNothingStays) {
  command(ControlCommand(0, 0).put(0, 1));
  const DeviceState good = saved();
  DeviceState wrong = good;
  wrong.commands.push_back(ControlCommand(4, 0).put(9, 2).bytes());  // nine pairs of two
  EXPECT_THAT(refusal(wrong), HasSubstr("does not accept"));
  wrong = good;
  wrong.commands.push_back(wrong.commands.front());
  EXPECT_THAT(refusal(wrong), HasSubstr("does not accept")) << "two commands for the same";
  wrong = good;
  wrong.config[0] = std::byte{1};  // the address, which a driver of today may not write
  EXPECT_NE(refusal(wrong), "it is taken");
  EXPECT_TRUE(is_untouched());
  // What was in force before is so again.
  ASSERT_TRUE(elsewhere->load_device_state(port::encode(good)));
  wrong = good;
  wrong.commands = {ControlCommand(0, 0).put(1, 1).bytes(), ControlCommand(99, 0).bytes()};
  EXPECT_THAT(refusal(wrong), HasSubstr("does not accept"));
  move(value_or_die(elsewhere->save_device_state()));
  EXPECT_EQ(arrivals({kStranger}), (std::vector<std::size_t>{101}));
}

TEST_F(DeviceStateTest, MustHaveBeenNegotiatedAlike) {
  command(ControlCommand(0, 0).put(0, 1));
  const DeviceState good = saved();
  ASSERT_TRUE(elsewhere->set_features(good.features.minus({NetFeature::ctrl_vlan})));
  EXPECT_THAT(refusal(good), HasSubstr("negotiated"));
  ASSERT_TRUE(elsewhere->set_features(good.features));
  EXPECT_EQ(refusal(good), "it is taken");
}

TEST_F(DeviceStateTest, EndsWhenOtherFeaturesAreNegotiated) {
  command(ControlCommand(0, 0).put(0, 1));
  ASSERT_TRUE(elsewhere->load_device_state(save()));
  ASSERT_TRUE(elsewhere->set_features(elsewhere->features().minus({NetFeature::ctrl_vlan})));
  EXPECT_TRUE(value_or_die(port::decode_device_state(value_or_die(elsewhere->save_device_state()))).commands.empty());
}

}  // namespace
}  // namespace causeway::testing

#include "net/receive_filter.h"

#include "virtio/net.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace causeway::net {
namespace {

using virtio::FeatureSet, virtio::NetFeature;

constexpr MacAddress kOwn{{0x52, 0x54, 0, 0, 0, 1}};
constexpr MacAddress kOther{{0x52, 0x54, 0, 0, 0, 2}};
constexpr MacAddress kGroup{{0x33, 0x33, 0, 0, 0, 1}};
constexpr MacAddress kBroadcast{{255, 255, 255, 255, 255, 255}};
constexpr FeatureSet kAll{NetFeature::ctrl_rx, NetFeature::ctrl_rx_extra, NetFeature::ctrl_vlan,
                          NetFeature::mq,      NetFeature::ctrl_mac_addr, NetFeature::guest_announce};
constexpr std::uint16_t kPairs = 4;

class Filter : public ::testing::Test {
 protected:
  vdpa::ControlReply send(std::initializer_list<int> bytes, FeatureSet features = kAll) {
    std::vector<std::byte> command;
    for (const int byte : bytes) command.push_back(static_cast<std::byte>(byte));
    return filter_.apply(command, features, kPairs);
  }
  bool takes(const MacAddress& to, std::optional<std::uint16_t> vlan = std::nullopt) const {
    return filter_.accepts({.destination = to, .source = kOther, .ether_type = {8, 0}}, vlan);
  }
  ReceiveFilter filter_{kOwn};
};

TEST_F(Filter, TakesEverythingUntilTheDriverSaysOtherwise) {
  EXPECT_TRUE(takes(kOwn) && takes(kOther) && takes(kGroup) && takes(kBroadcast) && takes(kOwn, 7));
  EXPECT_EQ(filter_.active_pairs(), ReceiveFilter::kAllPairs);
}

TEST_F(Filter, WithoutPromiscuityTakesItsOwnAddressAndBroadcasts) {
  EXPECT_EQ(send({0, 0, 0}).ack, virtio::kCtrlOk);
  EXPECT_TRUE(takes(kOwn) && takes(kBroadcast));
  EXPECT_FALSE(takes(kOther) || takes(kGroup));
  EXPECT_EQ(send({0, 1, 1}).ack, virtio::kCtrlOk);
  EXPECT_TRUE(takes(kGroup)) << "allmulti";
  EXPECT_EQ(send({0, 2, 1}).ack, virtio::kCtrlOk);
  EXPECT_TRUE(takes(kOther)) << "alluni";
  EXPECT_EQ(send({0, 5, 1}).ack, virtio::kCtrlOk);
  EXPECT_FALSE(takes(kBroadcast)) << "nobcast";
}

TEST_F(Filter, TakesTheAddressesOfItsTables) {
  ASSERT_EQ(send({0, 0, 0}).ack, virtio::kCtrlOk);
  EXPECT_EQ(send({1, 0, 1, 0, 0, 0, 0x52, 0x54, 0, 0, 0, 2, 1, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1}).ack, virtio::kCtrlOk);
  EXPECT_TRUE(takes(kOther) && takes(kGroup));
  EXPECT_EQ(send({1, 0, 0, 0, 0, 0, 0, 0, 0, 0}).ack, virtio::kCtrlOk);
  EXPECT_FALSE(takes(kOther) || takes(kGroup));
}

TEST_F(Filter, RefusesTablesThatAreCutShortOrGoOn) {
  ASSERT_EQ(send({0, 0, 0}).ack, virtio::kCtrlOk);
  for (const auto bytes : {std::initializer_list<int>{1, 0},
                           {1, 0, 1, 0, 0},
                           {1, 0, 2, 0, 0, 0, 0x52, 0x54, 0, 0, 0, 2},
                           {1, 0, 255, 255, 255, 255, 0, 0, 0, 0},
                           {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}}) {
    EXPECT_EQ(send(bytes).ack, virtio::kCtrlErr);
  }
  EXPECT_FALSE(takes(kOther));
}

TEST_F(Filter, ChangesItsAddressButNotToAGroup) {
  ASSERT_EQ(send({0, 0, 0}).ack, virtio::kCtrlOk);
  EXPECT_EQ(send({1, 1, 0x52, 0x54, 0, 0, 0, 2}).ack, virtio::kCtrlOk);
  EXPECT_TRUE(takes(kOther));
  EXPECT_FALSE(takes(kOwn));
  EXPECT_EQ(send({1, 1, 0x33, 0x33, 0, 0, 0, 1}).ack, virtio::kCtrlErr);
  EXPECT_EQ(filter_.mac(), kOther);
}

TEST_F(Filter, FiltersVlansFromTheFirstCommandOn) {
  EXPECT_EQ(send({2, 0, 5, 0}).ack, virtio::kCtrlOk);
  EXPECT_TRUE(takes(kOwn, 5));
  EXPECT_FALSE(takes(kOwn, 6));
  EXPECT_TRUE(takes(kOwn)) << "untagged frames have no VLAN to be filtered by";
  const auto removed = send({2, 1, 5, 0});
  EXPECT_EQ(removed.ack, virtio::kCtrlOk);
  EXPECT_TRUE(removed.is_default) << "nothing of VLAN 5 need be replayed";
  EXPECT_FALSE(takes(kOwn, 5));
  EXPECT_EQ(send({2, 0, 0, 16}).ack, virtio::kCtrlErr) << "id 4096";
}

TEST_F(Filter, SetsTheNumberOfPairsWithinTheDevices) {
  EXPECT_EQ(send({4, 0, 2, 0}).ack, virtio::kCtrlOk);
  EXPECT_EQ(filter_.active_pairs(), 2);
  EXPECT_EQ(send({4, 0, 0, 0}).ack, virtio::kCtrlErr);
  EXPECT_EQ(send({4, 0, 5, 0}).ack, virtio::kCtrlErr);
  EXPECT_EQ(filter_.active_pairs(), 2);
}

TEST_F(Filter, RefusesWhatWasNotNegotiatedOrIsUnknown) {
  for (const auto bytes :
       {std::initializer_list<int>{0, 0, 0}, {2, 0, 5, 0}, {4, 0, 2, 0}, {1, 1, 0x52, 0x54, 0, 0, 0, 2}, {3, 0}}) {
    EXPECT_EQ(send(bytes, FeatureSet()).ack, virtio::kCtrlErr);
  }
  for (const auto bytes : {std::initializer_list<int>{}, {0}, {0, 9, 1}, {0, 0}, {0, 0, 0, 0}, {99, 0, 0}, {5, 0, 0}}) {
    EXPECT_EQ(send(bytes).ack, virtio::kCtrlErr);
  }
}

}  // namespace
}  // namespace causeway::net

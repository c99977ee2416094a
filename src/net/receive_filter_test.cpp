#include "net/receive_filter.h"

#include "virtio/net.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace causeway::net {
namespace {

using virtio::FeatureSet;
using virtio::NetFeature;

constexpr MacAddress kOwn{{0x52, 0x54, 0, 0, 0, 1}};
constexpr MacAddress kOther{{0x52, 0x54, 0, 0, 0, 2}};
constexpr MacAddress kGroup{{0x33, 0x33, 0, 0, 0, 1}};
constexpr MacAddress kOtherGroup{{0x33, 0x33, 0, 0, 0, 2}};
constexpr MacAddress kBroadcast{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

constexpr FeatureSet kAll{
    NetFeature::ctrl_vq,        NetFeature::ctrl_rx, NetFeature::ctrl_rx_extra, NetFeature::ctrl_vlan,
    NetFeature::guest_announce, NetFeature::mq,      NetFeature::ctrl_mac_addr, NetFeature::mac};

enum Mode : std::uint8_t { kPromisc, kAllMulti, kAllUni, kNoMulti, kNoUni, kNoBroadcast };

using Command = std::vector<std::byte>;

Command command(std::initializer_list<int> bytes) {
  Command result;
  for (const int byte : bytes) result.push_back(static_cast<std::byte>(byte));
  return result;
}

void append(Command& to, const MacAddress& address) {
  for (const std::uint8_t byte : address.bytes) to.push_back(static_cast<std::byte>(byte));
}

void append_count(Command& to, std::uint32_t count) {
  for (int shift = 0; shift < 32; shift += 8) to.push_back(static_cast<std::byte>(count >> shift & 0xff));
}

Command table(const std::vector<MacAddress>& unicast, const std::vector<MacAddress>& multicast) {
  Command result = command({1, 0});
  for (const auto& addresses : {unicast, multicast}) {
    append_count(result, static_cast<std::uint32_t>(addresses.size()));
    for (const MacAddress& address : addresses) append(result, address);
  }
  return result;
}

Command set_address(const MacAddress& address) {
  Command result = command({1, 1});
  append(result, address);
  return result;
}

std::vector<MacAddress> many(std::size_t count, std::uint8_t first_byte) {
  std::vector<MacAddress> result;
  result.reserve(count);
  for (std::size_t i = 0; i < count; ++i)
    result.push_back({{first_byte, 0, 0, 9, static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i)}});
  return result;
}

class Filter : public ::testing::Test {
 protected:
  vdpa::ControlReply apply(const Command& bytes, FeatureSet features = kAll) { return filter_.apply(bytes, features); }
  bool is_taken(const Command& bytes, FeatureSet features = kAll) {
    return apply(bytes, features).ack == virtio::kCtrlOk;
  }
  void set(Mode mode, bool on) { ASSERT_TRUE(is_taken(command({0, mode, on ? 1 : 0}))); }
  bool accepts(const MacAddress& destination, std::optional<std::uint16_t> vlan = std::nullopt) const {
    return filter_.accepts({.destination = destination, .source = kOther, .ether_type = {8, 0}}, vlan);
  }

  ReceiveFilter filter_{kOwn};
};

TEST_F(Filter, TakesEverythingUntilTheDriverSaysOtherwise) {
  for (const MacAddress& address : {kOwn, kOther, kGroup, kBroadcast}) EXPECT_TRUE(accepts(address)) << address.text();
  EXPECT_TRUE(accepts(kOther, 7));
}

TEST_F(Filter, WithoutPromiscuousModeTakesItsOwnAddressAndBroadcasts) {
  set(kPromisc, false);
  EXPECT_TRUE(accepts(kOwn));
  EXPECT_TRUE(accepts(kBroadcast));
  EXPECT_FALSE(accepts(kOther));
  EXPECT_FALSE(accepts(kGroup));
}

TEST_F(Filter, ModesWidenAndNarrow) {
  set(kPromisc, false);
  set(kAllMulti, true);
  EXPECT_TRUE(accepts(kGroup));
  EXPECT_FALSE(accepts(kOther));
  set(kAllUni, true);
  EXPECT_TRUE(accepts(kOther));
  set(kNoMulti, true);
  EXPECT_FALSE(accepts(kGroup)) << "nomulti is above allmulti";
  EXPECT_TRUE(accepts(kBroadcast)) << "nomulti does not concern broadcasts";
  set(kNoUni, true);
  EXPECT_FALSE(accepts(kOwn)) << "nouni is above alluni";
  set(kNoBroadcast, true);
  EXPECT_FALSE(accepts(kBroadcast)) << "nobcast is above allmulti";
  set(kPromisc, true);
  for (const MacAddress& address : {kOwn, kOther, kGroup, kBroadcast})
    EXPECT_TRUE(accepts(address)) << "promiscuous mode is above all";
}

TEST_F(Filter, TakesWhatIsInItsTablesAndForgetsTheFormerOnes) {
  set(kPromisc, false);
  ASSERT_TRUE(is_taken(table({kOther}, {kGroup})));
  EXPECT_TRUE(accepts(kOther));
  EXPECT_TRUE(accepts(kGroup));
  EXPECT_FALSE(accepts(kOtherGroup));
  EXPECT_TRUE(accepts(kOwn)) << "the table adds to the NIC's own address";
  ASSERT_TRUE(is_taken(table({}, {kOtherGroup})));
  EXPECT_FALSE(accepts(kOther));
  EXPECT_FALSE(accepts(kGroup));
  EXPECT_TRUE(accepts(kOtherGroup));
}

TEST_F(Filter, FindsEveryEntryOfAFullTable) {
  set(kPromisc, false);
  auto unicast = many(ReceiveFilter::kMaxAddresses, 2);
  std::swap(unicast.front(), unicast.back());
  ASSERT_TRUE(is_taken(table(unicast, {})));
  for (const MacAddress& address : unicast) EXPECT_TRUE(accepts(address)) << address.text();
  EXPECT_FALSE(accepts(kOther));
}

TEST_F(Filter, TakesAllOfAKindWhoseTableIsTooLong) {
  set(kPromisc, false);
  ASSERT_TRUE(is_taken(table({}, many(ReceiveFilter::kMaxAddresses + 1, 3))));
  EXPECT_TRUE(accepts(kGroup));
  EXPECT_FALSE(accepts(kOther)) << "the other table was short enough";
  ASSERT_TRUE(is_taken(table(many(ReceiveFilter::kMaxAddresses + 1, 2), {})));
  EXPECT_TRUE(accepts(kOther));
  EXPECT_FALSE(accepts(kGroup)) << "the table that was too long has been replaced";
}

TEST_F(Filter, TakesANewAddressOfItsOwn) {
  set(kPromisc, false);
  ASSERT_TRUE(is_taken(set_address(kOther)));
  EXPECT_EQ(filter_.mac(), kOther);
  EXPECT_TRUE(accepts(kOther));
  EXPECT_FALSE(accepts(kOwn));
  for (const MacAddress& bad : {kGroup, kBroadcast, MacAddress{}}) EXPECT_FALSE(is_taken(set_address(bad)));
  EXPECT_EQ(filter_.mac(), kOther);
}

TEST_F(Filter, DropsVlansThatAreNotInTheTable) {
  set(kPromisc, false);
  EXPECT_FALSE(accepts(kOwn, 7)) << "the table starts empty";
  EXPECT_TRUE(accepts(kOwn)) << "a frame without a tag is not concerned";
  ASSERT_TRUE(is_taken(command({2, 0, 7, 0})));
  ASSERT_TRUE(is_taken(command({2, 0, 0xff, 0x0f})));
  EXPECT_TRUE(accepts(kOwn, 7));
  EXPECT_TRUE(accepts(kOwn, 4095));
  EXPECT_FALSE(accepts(kOwn, 8));
  EXPECT_FALSE(accepts(kOther, 7)) << "the address counts too";
  ASSERT_TRUE(is_taken(command({2, 1, 7, 0})));
  EXPECT_FALSE(accepts(kOwn, 7));
}

TEST_F(Filter, PromiscuousModeIsAboveTheVlanTable) {
  ASSERT_TRUE(is_taken(command({2, 0, 7, 0})));
  EXPECT_TRUE(accepts(kOwn, 8));
  set(kPromisc, false);
  EXPECT_FALSE(accepts(kOwn, 8));
}

TEST_F(Filter, TakesAllVlansWithoutCtrlVlan) {
  const FeatureSet features = kAll.without(NetFeature::ctrl_vlan);
  ASSERT_TRUE(is_taken(command({0, kPromisc, 0}), features));
  EXPECT_TRUE(accepts(kOwn, 7));
  EXPECT_FALSE(is_taken(command({2, 0, 7, 0}), features));
}

TEST_F(Filter, RefusesCommandsOfFeaturesThatWereNotNegotiated) {
  const auto refused_without = [&](NetFeature feature, const Command& bytes) {
    EXPECT_FALSE(is_taken(bytes, kAll.without(feature)));
    EXPECT_TRUE(is_taken(bytes, kAll));
  };
  refused_without(NetFeature::ctrl_rx, command({0, kPromisc, 1}));
  refused_without(NetFeature::ctrl_rx_extra, command({0, kAllUni, 0}));
  refused_without(NetFeature::ctrl_rx, table({}, {}));
  refused_without(NetFeature::ctrl_mac_addr, set_address(kOwn));
  refused_without(NetFeature::ctrl_vlan, command({2, 0, 1, 0}));
}

TEST_F(Filter, RefusesEveryLengthButTheRightOne) {
  for (const Command& good :
       {command({0, kPromisc, 0}), table({kOther}, {kGroup}), set_address(kOther), command({2, 0, 7, 0})}) {
    for (std::size_t length = 0; length < good.size(); ++length)
      EXPECT_FALSE(is_taken(Command(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length)))) << length;
    Command longer = good;
    longer.push_back(std::byte{0});
    EXPECT_FALSE(is_taken(longer));
  }
  EXPECT_TRUE(accepts(kOther, 9)) << "nothing has changed";
  EXPECT_EQ(filter_.mac(), kOwn);
}

TEST_F(Filter, RefusesTablesThatAreLongerThanTheirCommandAndKeepsTheOldOnes) {
  set(kPromisc, false);
  ASSERT_TRUE(is_taken(table({kOther}, {kGroup})));
  for (const std::uint32_t count : {2U, 0x2aaaaaabU, 0xffffffffU}) {
    // 0x2aaaaaab entries of 6 bytes are 2 bytes, if counted in 32 bits.
    Command bad = command({1, 0});
    append_count(bad, count);
    append(bad, kOwn);
    append_count(bad, 0);
    EXPECT_FALSE(is_taken(bad)) << count;
    bad = command({1, 0});
    append_count(bad, 0);
    append_count(bad, count);
    append(bad, kOwn);
    EXPECT_FALSE(is_taken(bad)) << count;
  }
  EXPECT_TRUE(accepts(kOther));
  EXPECT_TRUE(accepts(kGroup));
}

TEST_F(Filter, RefusesUnknownClassesCommandsAndValues) {
  for (const auto& bad :
       {command({6, 0, 0}), command({255, 255}), command({0, 6, 1}), command({1, 2, 0, 0, 0, 0, 0, 0}),
        command({2, 2, 1, 0}), command({2, 0, 0, 0x10}), command({3, 1}), command({5, 0, 0, 0, 0, 0, 0, 0, 0, 0})})
    EXPECT_FALSE(is_taken(bad)) << std::to_integer<int>(bad[0]) << ' ' << std::to_integer<int>(bad[1]);
}

TEST_F(Filter, ReplyNamesWhatToReplay) {
  const auto on = apply(command({0, kPromisc, 1}));
  const auto off = apply(command({0, kPromisc, 0}));
  EXPECT_EQ(on.topic, off.topic);
  EXPECT_FALSE(off.is_default);
  EXPECT_NE(apply(command({0, kAllMulti, 1})).topic, on.topic);
  const auto added = apply(command({2, 0, 7, 0}));
  const auto deleted = apply(command({2, 1, 7, 0}));
  EXPECT_EQ(added.topic, deleted.topic);
  EXPECT_FALSE(added.is_default);
  EXPECT_TRUE(deleted.is_default);
  EXPECT_NE(apply(command({2, 0, 8, 0})).topic, added.topic);
  EXPECT_NE(apply(table({}, {})).topic, apply(set_address(kOther)).topic);
}

}  // namespace
}  // namespace causeway::net

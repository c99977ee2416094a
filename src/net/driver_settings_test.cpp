// The commands of the control virtqueue besides the filter's: each with its feature, its lengths and its limits.

#include "net/driver_settings.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <map>
#include <vector>

namespace causeway::net {
namespace {

using virtio::FeatureSet, virtio::NetFeature;
using Command = std::vector<std::byte>;

constexpr MacAddress kOwn{{0x52, 0x54, 0, 0, 0, 1}};
constexpr std::uint16_t kPairs = 4;
constexpr FeatureSet kMost =
    kGuestOffloads | FeatureSet{NetFeature::ctrl_rx, NetFeature::guest_announce, NetFeature::mq,
                                NetFeature::ctrl_guest_offloads, NetFeature::hash_report};
constexpr FeatureSet kWithRss = kMost.with(NetFeature::rss);

Command command(std::initializer_list<int> values) {
  Command bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

void append(Command& to, std::uint64_t value, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) to.push_back(static_cast<std::byte>(value >> (8 * i) & 0xff));
}

struct RssConfig {
  std::uint32_t types = virtio::kHashAll;
  std::uint16_t mask = 3;
  std::uint16_t unclassified = 2;
  std::vector<std::uint16_t> table = {3, 2, 1, 0};
  std::uint16_t transmitters = 4;
  std::uint8_t key_length = 40;
};

Command rss(const RssConfig& config) {
  Command bytes = command({4, 1});
  append(bytes, config.types, 4);
  append(bytes, config.mask, 2);
  append(bytes, config.unclassified, 2);
  for (const std::uint16_t entry : config.table) append(bytes, entry, 2);
  append(bytes, config.transmitters, 2);
  append(bytes, config.key_length, 1);
  for (int i = 0; i < config.key_length; ++i) append(bytes, static_cast<std::uint64_t>(i + 1), 1);
  return bytes;
}

Command hash(std::uint32_t types, std::uint8_t key_length) {
  Command bytes = command({4, 2});
  append(bytes, types, 4);
  append(bytes, 0, 8);
  append(bytes, key_length, 1);
  bytes.resize(bytes.size() + key_length, std::byte{0x5a});
  return bytes;
}

Command offloads(FeatureSet features) {
  Command bytes = command({5, 0});
  append(bytes, features.bits(), 8);
  return bytes;
}

bool takes(DriverSettings& settings, const Command& bytes) {
  return settings.apply(bytes).ack == virtio::kCtrlOk;
}

TEST(DriverSettings, CountQueuePairs) {
  DriverSettings settings(kOwn, kMost, kPairs);
  EXPECT_EQ(settings.active_pairs(), DriverSettings::kAllPairs);
  EXPECT_TRUE(takes(settings, command({4, 0, 4, 0})));
  for (const auto& bad : {command({4, 0, 0, 0}), command({4, 0, 5, 0}), command({4, 0, 4, 1}), command({4, 3, 1, 0})})
    EXPECT_FALSE(takes(settings, bad));
  EXPECT_EQ(settings.active_pairs(), 4);
}

TEST(DriverSettings, TakeAnRssTable) {
  DriverSettings settings(kOwn, kWithRss, kPairs);
  ASSERT_TRUE(takes(settings, rss({})));
  ASSERT_TRUE(settings.steering().has_value());
  EXPECT_EQ(settings.hash().types(), virtio::kHashAll);
  EXPECT_EQ(settings.steering()->pair_for({}), 2) << "not classified";
  EXPECT_EQ(settings.steering()->pair_for({.value = 0x12345670, .report = virtio::HashReport::tcp4}), 3);
  EXPECT_EQ(settings.steering()->pair_for({.value = 0x12345673, .report = virtio::HashReport::tcp4}), 0);
  EXPECT_TRUE(takes(settings, rss({.mask = 127, .table = std::vector<std::uint16_t>(128, 1)})));
  EXPECT_TRUE(takes(settings, rss({.types = 0, .mask = 0, .table = {1}, .key_length = 0})));
}

TEST(DriverSettings, RefuseAnRssTableThatIsOutOfBounds) {
  DriverSettings settings(kOwn, kWithRss, kPairs);
  ASSERT_TRUE(takes(settings, rss({})));
  const auto before = settings.steering();
  for (const RssConfig& bad : std::vector<RssConfig>{
           {.types = 0x200},
           {.mask = 2, .table = {0, 1, 2}},
           {.mask = 255, .table = std::vector<std::uint16_t>(256, 0)},
           {.mask = 0xffff},
           {.mask = 127},
           {.unclassified = 4},
           {.table = {0, 1, 2, 4}},
           {.table = {0, 1, 2, 0x8000}},
           {.transmitters = 0},
           {.transmitters = 5},
           {.key_length = 41},
           {.key_length = 0},
       })
    EXPECT_FALSE(takes(settings, rss(bad)));
  EXPECT_EQ(settings.steering(), before);
  EXPECT_EQ(settings.hash().types(), virtio::kHashAll);
}

TEST(DriverSettings, RefuseEveryLengthButTheRightOne) {
  for (const Command& good : {command({3, 0}), command({4, 0, 2, 0}), rss({}), offloads(kGuestOffloads)}) {
    DriverSettings settings(kOwn, kWithRss, kPairs);
    for (std::size_t length = 0; length < good.size(); ++length)
      EXPECT_FALSE(takes(settings, Command(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length))));
    Command longer = good;
    longer.push_back(std::byte{0});
    EXPECT_FALSE(takes(settings, longer));
    EXPECT_TRUE(takes(settings, good));
  }
  DriverSettings settings(kOwn, kMost, kPairs);
  const Command good = hash(virtio::kHashTcp4, 40);
  for (std::size_t length = 0; length < good.size(); ++length)
    EXPECT_FALSE(takes(settings, Command(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length))));
}

TEST(DriverSettings, RefuseCommandsOfFeaturesThatWereNotNegotiated) {
  const auto refused_without = [](NetFeature feature, const Command& bytes, FeatureSet features = kWithRss) {
    DriverSettings with(kOwn, features, kPairs);
    DriverSettings without(kOwn, features.without(feature), kPairs);
    EXPECT_TRUE(takes(with, bytes));
    EXPECT_FALSE(takes(without, bytes));
  };
  refused_without(NetFeature::guest_announce, command({3, 0}));
  refused_without(NetFeature::mq, command({4, 0, 1, 0}));
  refused_without(NetFeature::rss, rss({}));
  refused_without(NetFeature::hash_report, hash(virtio::kHashTcp4, 40), kMost);
  refused_without(NetFeature::ctrl_guest_offloads, offloads({}));
  refused_without(NetFeature::guest_tso4, offloads(FeatureSet{NetFeature::guest_tso4}));
  refused_without(NetFeature::ctrl_rx, command({0, 0, 0}));
}

TEST(DriverSettings, TakeAHashForReportsFromDriversWithoutRss) {
  DriverSettings settings(kOwn, kMost, kPairs);
  ASSERT_TRUE(takes(settings, hash(virtio::kHashTcp4, 40)));
  EXPECT_EQ(settings.hash().types(), virtio::kHashTcp4);
  EXPECT_FALSE(settings.steering().has_value());
  EXPECT_TRUE(takes(settings, command({4, 0, 2, 0})));
  EXPECT_EQ(settings.hash().types(), virtio::kHashTcp4) << "how many queues is another matter";
  EXPECT_FALSE(takes(settings, hash(0x200, 40)));
  EXPECT_FALSE(takes(settings, hash(virtio::kHashTcp4, 41)));
  EXPECT_TRUE(takes(settings, hash(0, 0)));
  DriverSettings with_rss(kOwn, kWithRss, kPairs);
  EXPECT_FALSE(takes(with_rss, hash(virtio::kHashTcp4, 40)));
}

TEST(DriverSettings, SpreadAsTheLastOfPairsAndRssSays) {
  DriverSettings settings(kOwn, kWithRss, kPairs);
  ASSERT_TRUE(takes(settings, command({4, 0, 2, 0})));
  ASSERT_TRUE(takes(settings, rss({})));
  EXPECT_EQ(settings.active_pairs(), DriverSettings::kAllPairs) << "the table says which";
  ASSERT_TRUE(takes(settings, command({4, 0, 2, 0})));
  EXPECT_EQ(settings.active_pairs(), 2);
  EXPECT_FALSE(settings.steering().has_value());
  EXPECT_FALSE(settings.hash().is_used());
}

TEST(DriverSettings, TurnGuestOffloadsOnAndOff) {
  DriverSettings settings(kOwn, kMost, kPairs);
  const FeatureSet queue = kGuestOffloads | FeatureSet{NetFeature::mrg_rxbuf};
  EXPECT_EQ(settings.effective(queue), queue);
  ASSERT_TRUE(takes(settings, offloads(FeatureSet{NetFeature::guest_csum})));
  EXPECT_EQ(settings.effective(queue), (FeatureSet{NetFeature::guest_csum, NetFeature::mrg_rxbuf}));
  EXPECT_FALSE(takes(settings, offloads(FeatureSet{NetFeature::mrg_rxbuf}))) << "no offload";
  EXPECT_FALSE(settings.apply(offloads({})).is_default);
  const auto all = settings.apply(offloads(kGuestOffloads));
  EXPECT_TRUE(all.is_default) << "as after negotiation: nothing to replay";
  EXPECT_EQ(settings.effective(FeatureSet{NetFeature::mrg_rxbuf}), queue);
}

TEST(DriverSettings, ReplyNamesWhatToReplay) {
  DriverSettings plain(kOwn, kMost, kPairs);
  DriverSettings with_rss(kOwn, kWithRss, kPairs);
  const auto pairs = plain.apply(command({4, 0, 2, 0}));
  EXPECT_FALSE(pairs.is_default);
  EXPECT_EQ(with_rss.apply(rss({})).topic, pairs.topic) << "the later of the two decides";
  EXPECT_NE(plain.apply(hash(1, 40)).topic, pairs.topic) << "both are needed";
  EXPECT_TRUE(plain.apply(command({3, 0})).is_default) << "an event is not replayed";
  EXPECT_NE(plain.apply(offloads({})).topic, pairs.topic);
}

/// As a Port does: the last command of each topic, in the order of topics.
TEST(DriverSettings, AreTheSameWhenTheirLogIsReplayed) {
  const std::vector<Command> commands{rss({}),     command({4, 0, 2, 0}), offloads({}),
                                      hash(1, 40), command({0, 0, 0}),    rss({.types = 1})};
  for (const FeatureSet features : {kMost, kWithRss}) {
    for (std::size_t first = 0; first < commands.size(); ++first) {
      DriverSettings original(kOwn, features, kPairs);
      std::map<std::uint64_t, Command> log;
      for (std::size_t i = 0; i < commands.size(); ++i) {
        const Command& bytes = commands[(first + i) % commands.size()];
        const auto reply = original.apply(bytes);
        if (reply.ack == virtio::kCtrlOk) log[reply.topic] = bytes;
      }
      DriverSettings replayed(kOwn, features, kPairs);
      for (const auto& [topic, bytes] : log) EXPECT_TRUE(takes(replayed, bytes));
      EXPECT_EQ(replayed.steering(), original.steering());
      EXPECT_EQ(replayed.hash().types(), original.hash().types());
      EXPECT_EQ(replayed.active_pairs(), original.active_pairs());
      EXPECT_EQ(replayed.guest_offloads(), original.guest_offloads());
    }
  }
}

}  // namespace
}  // namespace causeway::net

// The NIC as its driver sees it before any traffic: what it offers, its configuration space, its link.

#include "net/nic.h"

#include "base/loop.h"
#include "net/switch.h"

#include <gtest/gtest.h>

#include <cstring>

namespace causeway::net {
namespace {

using virtio::Feature, virtio::FeatureSet, virtio::NetFeature;

constexpr MacAddress kMac{{0x52, 0x54, 0, 0, 0, 1}};

class ConfigWatcher final : public vdpa::DeviceObserver {
 public:
  void config_changed() override { ++changes; }
  void queue_failed(vdpa::QueueIndex, Error) override {}
  void device_gone(Error) override {}
  int changes = 0;
};

class NicTest : public ::testing::Test {
 protected:
  std::unique_ptr<Nic> make(NicConfig config) {
    auto nic = Nic::make(loop_, std::move(config), bridge_.add_port("port"));
    EXPECT_TRUE(nic) << nic.error().text();
    return std::move(*nic);
  }
  bool refuses(const NicConfig& config) { return !Nic::make(loop_, config, bridge_.add_port("port")); }
  static virtio::NetConfig space_of(const Nic& nic) {
    virtio::NetConfig space;
    EXPECT_TRUE(nic.read_config(0, std::as_writable_bytes(std::span(&space, 1))));
    return space;
  }
  static NicConfig config() { return {.name = "nic", .mac = kMac, .mtu = std::nullopt}; }

  Loop loop_;
  std::unique_ptr<Worker> worker_ =
      std::move(*Worker::start({.name = "test", .polling = Polling::adaptive, .cpu = std::nullopt}));
  Switch bridge_{*worker_, "sw0"};
};

TEST_F(NicTest, ShowsItsWholeConfigurationSpace) {
  auto wanted = config();
  wanted.queue_pairs = 4;
  wanted.mtu = 9000;
  wanted.speed = 25000;
  wanted.duplex = virtio::kNetDuplexFull;
  const auto nic = make(wanted);
  const auto space = space_of(*nic);
  EXPECT_EQ(std::memcmp(space.mac, kMac.bytes.data(), 6), 0);
  EXPECT_EQ(space.status, virtio::kNetStatusLinkUp);
  EXPECT_EQ(space.max_virtqueue_pairs, 4);
  EXPECT_EQ(space.mtu, 9000);
  EXPECT_EQ(space.speed, 25000U);
  EXPECT_EQ(space.duplex, virtio::kNetDuplexFull);
  EXPECT_EQ(space.rss_max_key_size, 40);
  EXPECT_EQ(space.rss_max_indirection_table_length, 128);
  EXPECT_EQ(space.supported_hash_types, 0x1ffU);
  std::array<std::byte, 2> end{};
  EXPECT_FALSE(nic->read_config(sizeof space - 1, end));
}

TEST_F(NicTest, SaysThatItsSpeedIsUnknown) {
  const auto nic = make(config());
  EXPECT_TRUE(nic->info().features.has(NetFeature::speed_duplex));
  EXPECT_EQ(space_of(*nic).speed, virtio::kNetSpeedUnknown);
  EXPECT_EQ(space_of(*nic).duplex, virtio::kNetDuplexUnknown);
}

TEST_F(NicTest, OffersRssWithSeveralPairsOnly) {
  EXPECT_FALSE(make(config())->info().features.has(NetFeature::rss));
  auto many = config();
  many.queue_pairs = 2;
  const auto nic = make(many);
  EXPECT_TRUE(nic->info().features.has(NetFeature::rss));
  EXPECT_EQ(nic->control_queue(FeatureSet{NetFeature::ctrl_vq, NetFeature::rss}), vdpa::QueueIndex{4});
  EXPECT_EQ(nic->control_queue(FeatureSet{NetFeature::ctrl_vq}), vdpa::QueueIndex{2});
}

TEST_F(NicTest, RefusesAConfigurationThatCannotBe) {
  auto bad = config();
  bad.queue_pairs = kMaxQueuePairs + 1;
  EXPECT_TRUE(refuses(bad));
  bad = config();
  bad.mtu = 67;
  EXPECT_TRUE(refuses(bad));
  bad = config();
  bad.speed = 0x80000000;
  EXPECT_TRUE(refuses(bad));
  bad = config();
  bad.duplex = 2;
  EXPECT_TRUE(refuses(bad));
  bad = config();
  bad.mac = MacAddress{};
  EXPECT_TRUE(refuses(bad));
}

TEST_F(NicTest, TellsItsDriverWhenTheCableIsPulled) {
  ConfigWatcher watcher;
  const auto nic = make(config());
  nic->set_observer(&watcher);
  const auto before = nic->config_generation();
  nic->set_link(false);
  EXPECT_EQ(space_of(*nic).status, 0);
  EXPECT_NE(nic->config_generation(), before);
  nic->set_link(false);
  EXPECT_EQ(watcher.changes, 1) << "no change, no news";
  nic->set_link(true);
  EXPECT_EQ(space_of(*nic).status, virtio::kNetStatusLinkUp);
  EXPECT_EQ(watcher.changes, 2);
}

TEST_F(NicTest, ForgetsTheDriversAddressAtReset) {
  const auto nic = make(config());
  ASSERT_TRUE(nic->set_features(FeatureSet{NetFeature::ctrl_vq, NetFeature::ctrl_mac_addr}));
  std::array<std::byte, 8> command{std::byte{1}, std::byte{1}, std::byte{0x52}};
  ASSERT_EQ(nic->control(command).ack, virtio::kCtrlOk);
  EXPECT_EQ(space_of(*nic).mac[1], 0);
  ASSERT_TRUE(nic->set_status(vdpa::Status::reset));
  EXPECT_EQ(std::memcmp(space_of(*nic).mac, kMac.bytes.data(), 6), 0);
}

TEST(Announcement, IsAReverseArpRequest) {
  const auto frame = announcement(std::as_bytes(std::span(kMac.bytes)));
  EXPECT_EQ(frame[12], std::byte{0x80});
  EXPECT_EQ(frame[13], std::byte{0x35});
  EXPECT_EQ(frame[21], std::byte{3}) << "operation: request reverse";
  EXPECT_EQ(std::memcmp(frame.data() + 22, kMac.bytes.data(), 6), 0);
  EXPECT_EQ(std::memcmp(frame.data() + 32, kMac.bytes.data(), 6), 0);
}

}  // namespace
}  // namespace causeway::net

// What is in flight in a Frontend's queues, with our own Backend, which dies and comes back as another process would.
#include "vhost_user/frontend.h"
#include "vhost_user/frontend_fixture.h"

namespace causeway::vhost_user::testing {
namespace {

using vdpa::StopMode;
using virtio::DeviceType, virtio::FeatureSet;

class ARecordOfOurs : public FrontendTest {
 protected:
  static std::unique_ptr<FarSide> disk_side() {
    return std::make_unique<FarSide>(std::uint16_t{1}, BackendConfig{.path = test_socket(), .options = {}},
                                     DeviceType::block);
  }
  static FrontendConfig disk(bool reconnect) {
    FrontendConfig config = usual();
    config.type = DeviceType::block;
    config.reconnect = reconnect;
    return config;
  }
  void tear_down_far_side() override { far_.reset(); }
  /// The driver makes chains of one descriptor available, whose heads are 4 and 7.
  void offer_two() {
    for (const unsigned head : {4U, 7U}) {
      const auto at = GuestMemory::descriptors(0) + 16ULL * head;
      memory_->store16(at + 2, 0x1008);  // guest address 0x10080000
      memory_->store16(at + 8, 512);
    }
    memory_->store16(GuestMemory::available(0) + 4, 4);
    memory_->store16(GuestMemory::available(0) + 6, 7);
    memory_->store16(GuestMemory::available(0) + 2, 2);
  }
  /// The device takes both and uses the second.
  void use_the_second() {
    far_->ask([](FakeDevice& device) {
      auto& ring = device.queues.at(QueueIndex{0}).ring;
      virtio::ChainBatch batch;
      EXPECT_EQ(ring.take(batch, 2), 2);
      ring.use(batch[1], 0);
      return ring.publish();
    });
  }
  std::vector<virtio::InFlight> far_in_flight() {
    return far_->ask([](FakeDevice& device) { return device.queues.at(QueueIndex{0}).ring.state().in_flight; });
  }

  std::unique_ptr<FarSide> far_;
};

const std::vector<virtio::InFlight> kTheFirst{{.id = 4, .descriptors = {}}};

TEST_F(ARecordOfOurs, HasExactlyWhatWasInFlightRunAgain) {
  far_ = disk_side();
  ASSERT_TRUE(make(disk(true)));
  start(0);
  offer_two();
  use_the_second();
  far_.reset();  // the process dies, and all that it knew
  ASSERT_TRUE(run_until([&] { return !frontend_->is_connected(); }));
  far_ = disk_side();
  ASSERT_TRUE(run_until([&] { return frontend_->is_connected(); }));
  EXPECT_EQ(far_in_flight(), kTheFirst);
}

TEST_F(ARecordOfOurs, MovesWhatIsInFlightAwayAndBack) {
  far_ = disk_side();
  ASSERT_TRUE(make(disk(false)));
  start(0);
  offer_two();
  use_the_second();
  const auto state = frontend_->stop_queue(QueueIndex{0}, StopMode::leave);
  ASSERT_TRUE(state) << state.error().text();
  EXPECT_EQ(*state, (vdpa::QueueState{.avail = 2, .used = 1, .in_flight = kTheFirst}));
  virtio::RingConfig back = ring(0);
  back.start = *state;
  ASSERT_TRUE(frontend_->set_queue(QueueIndex{0}, {.ring = back, .kick = kick_, .call = call_}));
  ASSERT_TRUE(frontend_->enable_queue(QueueIndex{0}, true));
  EXPECT_EQ(far_in_flight(), kTheFirst);
}

TEST_F(ARecordOfOurs, ReachesThePortWhenTheBackendHasLeft) {
  NearSide side;
  far_ = disk_side();
  ASSERT_TRUE(make(disk(false)));
  auto fallback = std::make_unique<FakeDevice>(std::uint16_t{1}, "fallback", DeviceType::block);
  FakeDevice& second = *fallback;
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  devices.push_back(std::move(frontend_));
  devices.push_back(std::move(fallback));
  auto port = *port::Port::make(*loop_, {.name = "near", .features_off = {}}, std::move(devices));
  ASSERT_TRUE(port->attach(side));
  ASSERT_TRUE(port->set_features(FeatureSet{virtio::Feature::version_1}));
  ASSERT_TRUE(port->add_memory(region()));
  ASSERT_TRUE(port->set_queue_size(QueueIndex{0}, 128));
  ASSERT_TRUE(port->set_queue_addresses(QueueIndex{0}, {.kind = port::RingAddressKind::guest,
                                                        .descriptors = ring(0).descriptors.value(),
                                                        .available = ring(0).available.value(),
                                                        .used = ring(0).used.value()}));
  ASSERT_TRUE(port->enable_queue(QueueIndex{0}, true));
  ASSERT_TRUE(port->start_queue(QueueIndex{0}, *KickFd::make()));
  ASSERT_FALSE(second.runs(0));
  offer_two();
  use_the_second();
  far_.reset();
  ASSERT_TRUE(run_until([&] { return second.runs(0); }));
  EXPECT_EQ(second.queues.at(QueueIndex{0}).ring.state().in_flight, kTheFirst);
}

}  // namespace
}  // namespace causeway::vhost_user::testing

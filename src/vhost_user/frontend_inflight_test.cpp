// The record of what is in flight in a Frontend's queues, with a back-end whose every answer the test decides.
#include "vhost_user/frontend.h"
#include "vhost_user/frontend_fixture.h"
#include "virtio/packed_ring.h"

#include <algorithm>

namespace causeway::vhost_user::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::Optional;
using PF = ProtocolFeature;
using vdpa::StopMode;
using virtio::DeviceType, virtio::FeatureSet, virtio::Layout;

constexpr ProtocolFeatures kNoRecord{PF::mq,     PF::reply_ack,           PF::config,
                                     PF::status, PF::configure_mem_slots, PF::reset_device};
constexpr ProtocolFeatures kAll =
    kNoRecord.with(PF::inflight_shmfd).with(PF::get_vring_base_inflight).with(PF::get_vring_base_skip_drain);

vdpa::QueueState two_in_flight() {
  return {.avail = 2, .used = 0, .in_flight = {{.id = 5, .descriptors = {}}, {.id = 3, .descriptors = {}}}};
}

class ARecord : public FrontendTest {
 protected:
  void tear_down_far_side() override { far_.reset(); }
  static FrontendConfig disk() {
    FrontendConfig config = usual();
    config.type = DeviceType::block;
    config.reconnect = true;
    return config;
  }
  void come(ScriptedBackend::Script script = {}, ProtocolFeatures offered = kAll) {
    script.try_emplace(Request::get_queue_num, Retort{.bytes = encode_reply(17, U64Answer{2})});
    far_.emplace(offered, std::move(script), FeatureSet{virtio::Feature::version_1, virtio::Feature::ring_packed});
  }
  void meet(ScriptedBackend::Script script = {}, ProtocolFeatures offered = kAll, FrontendConfig config = disk()) {
    come(std::move(script), offered);
    const auto made = make(config);
    ASSERT_TRUE(made) << made.error().text();
  }
  void die() {
    far_.reset();
    ASSERT_TRUE(run_until([&] { return !frontend_->is_connected(); }));
  }
  void come_again(ProtocolFeatures offered = kAll) {
    come({}, offered);
    ASSERT_TRUE(run_until([&] { return frontend_->is_connected(); }));
  }
  /// The answer to the message that stops a ring: it stands at `position`.
  static Retort stopped_at(Request request, std::uint32_t position) {
    return {.bytes = message(std::to_underlying(request), wire::kVersion | wire::kReplyFlag,
                             bytes_of(wire::VringState{.index = 0, .number = position}))};
  }
  std::size_t seen(Request request) { return static_cast<std::size_t>(std::ranges::count(far_->seen(), request)); }
  /// Those messages that matter here, in order.
  std::vector<Request> order() {
    auto all = far_->seen();
    std::erase_if(all, [](Request request) {
      return request != Request::get_inflight_fd && request != Request::set_inflight_fd &&
             request != Request::set_vring_base && request != Request::set_vring_kick;
    });
    return all;
  }
  /// Of queue 0, as the back-end has it.
  virtio::InflightArea area(Layout layout = Layout::split) {
    const auto size = *virtio::QueueSize::make(layout, 128);
    const auto region = *virtio::InflightRegion::adopt(layout, 2, size, *far_->records().back()->duplicate(), 0,
                                                       virtio::InflightRegion::least_size(layout, 2, size));
    return *region.area(QueueIndex{0}, layout, size);
  }
  /// The back-end takes two chains and uses neither.
  void take_two() {
    virtio::SplitInflight record(area(), ring(0), 0);
    record.mark(5);
    record.mark(3);
  }
  /// What the record says of queue 0.
  std::optional<vdpa::QueueState> recorded() {
    const std::vector<memory::Region> regions{region()};
    return *virtio::recover(area(), ring(0), **memory::MemoryMap::make(regions));
  }
  Result<void> start_ring(std::uint16_t queue, virtio::RingConfig config) {
    CW_TRY(kick_, KickFd::make());
    CW_CHECK(frontend_->set_queue(QueueIndex{queue}, {.ring = std::move(config), .kick = kick_, .call = {}}));
    return frontend_->enable_queue(QueueIndex{queue}, true);
  }

  std::optional<ScriptedBackend> far_;
};

TEST_F(ARecord, IsThereBeforeAnyQueueStarts) {
  meet();
  start(0);
  ASSERT_TRUE(start_ring(1, ring(1)));
  EXPECT_THAT(order(), ElementsAre(Request::set_vring_base, Request::get_inflight_fd, Request::set_inflight_fd,
                                   Request::set_vring_kick, Request::set_vring_base, Request::set_vring_kick));
  EXPECT_THAT(recorded(), Optional(vdpa::QueueState{}));
}

TEST_F(ARecord, IsNotAskedOfANetworkBackend) {
  FrontendConfig config = disk();
  config.type = DeviceType::net;
  meet({}, kAll, config);
  start(0);
  EXPECT_FALSE(frontend_->protocol_features().has(PF::inflight_shmfd));
  EXPECT_THAT(order(), ElementsAre(Request::set_vring_base, Request::set_vring_kick));
}

TEST_F(ARecord, OutlivesItsBackend) {
  meet();
  start(0);
  const auto file = far_->records().front();
  take_two();
  memory_->store16(GuestMemory::available(0) + 2, 2);
  die();
  come_again();
  EXPECT_THAT(order(), ElementsAre(Request::set_vring_base, Request::set_inflight_fd, Request::set_vring_kick));
  EXPECT_EQ(*identify(*far_->records().front()), *identify(*file));
  EXPECT_THAT(far_->bases(), ElementsAre(0u)) << "the used index: the back-end adds what is in flight";
  EXPECT_THAT(recorded(), Optional(two_in_flight()));
}

TEST_F(ARecord, SaysWhereAPackedRingStands) {
  meet();
  const FeatureSet features{virtio::Feature::version_1, virtio::Feature::ring_packed};
  virtio::RingConfig packed = ring(0);
  packed.size = *virtio::QueueSize::packed(128);
  packed.features = features;
  packed.start = vdpa::QueueState::initial(Layout::packed);
  ASSERT_TRUE(frontend_->set_features(features));
  const std::vector<memory::Region> regions{region()};
  ASSERT_TRUE(frontend_->map(regions));
  ASSERT_TRUE(start_ring(0, packed));
  {
    virtio::PackedInflight record(area(Layout::packed), packed);
    record.before_publish(virtio::PackedPosition(0x8005, 128), {});
    record.after_publish();
  }
  die();
  come_again();
  EXPECT_THAT(far_->bases(), ElementsAre(0x80058005u));
  EXPECT_TRUE(observer_.failed.empty());
}

TEST_F(ARecord, IsDoneWithoutWhereTheBackendGivesNone) {
  const InflightAnswer nothing{.region = {}, .payload_size = 24, .file = {}};
  meet({{Request::get_inflight_fd, {.bytes = encode_reply(31, nothing)}}});
  start(0);
  EXPECT_THAT(order(), ElementsAre(Request::set_vring_base, Request::get_inflight_fd, Request::set_vring_base,
                                   Request::set_vring_kick));
  ASSERT_TRUE(start_ring(1, ring(1)));
  EXPECT_EQ(seen(Request::get_inflight_fd), 1u);
  EXPECT_TRUE(frontend_->is_connected());
}

TEST_F(ARecord, IsDoneWithoutWhereItCannotBeMapped) {
  const InflightAnswer bad{
      .region = {.size = 1 << 20, .offset = 0, .queues = 2, .entries = 128}, .payload_size = 24, .file = {}};
  meet({{Request::get_inflight_fd, {.bytes = encode_reply(31, bad), .descriptors = 1}}});
  start(0);
  EXPECT_EQ(seen(Request::set_inflight_fd), 0u);
  EXPECT_EQ(seen(Request::set_vring_kick), 1u);
}

TEST_F(ARecord, IsDoneWithoutWhereTheBackendRefusesIt) {
  meet({{Request::set_inflight_fd, {.bytes = encode_failure(32)}}});
  start(0);
  EXPECT_EQ(seen(Request::set_vring_kick), 1u);
  die();
  come_again();
  EXPECT_EQ(seen(Request::get_inflight_fd), 1u) << "the next one is asked again";
}

TEST_F(ARecord, CannotBeToldToASuccessorThatRefusesIt) {
  meet();
  start(0);
  ASSERT_TRUE(start_ring(1, ring(1)));
  take_two();  // of queue 0; neither is what the available ring says at this place
  die();
  come({{Request::set_inflight_fd, {.bytes = encode_failure(32)}}});
  ASSERT_TRUE(run_until([&] { return seen(Request::set_inflight_fd) > 0; }));
  for (int i = 0; i < 50; ++i) loop_->run_ready();
  EXPECT_EQ(seen(Request::set_vring_kick), 0u);
}

TEST_F(ARecord, ComesWithOneDescriptor) {
  const InflightAnswer good{.region = {}, .payload_size = 24, .file = {}};
  meet({{Request::get_inflight_fd, {.bytes = encode_reply(31, good), .descriptors = 2}}});
  const std::vector<memory::Region> regions{region()};
  ASSERT_TRUE(frontend_->map(regions));
  ASSERT_TRUE(set_queue(0));
  EXPECT_TRUE(frontend_->enable_queue(QueueIndex{0}, true)) << "remembered for the next back-end";
  EXPECT_FALSE(frontend_->is_connected());
}

TEST_F(ARecord, EndsWithAReset) {
  meet();
  start(0);
  ASSERT_TRUE(frontend_->set_status(vdpa::Status::reset));
  ASSERT_TRUE(frontend_->set_features(FeatureSet{virtio::Feature::version_1}));
  ASSERT_TRUE(start_ring(0, ring(0)));
  EXPECT_EQ(seen(Request::get_inflight_fd), 2u);
  const auto records = far_->records();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_FALSE(*identify(*records[0]) == *identify(*records[1]));
}

TEST_F(ARecord, GrowsWithTheLargestRing) {
  meet({{Request::get_vring_base_skip_drain, stopped_at(Request::get_vring_base_skip_drain, 2)}});
  start(0);
  take_two();
  virtio::RingConfig large = ring(1);
  large.size = *virtio::QueueSize::split(256);
  ASSERT_TRUE(start_ring(1, large));
  EXPECT_THAT(order(), ElementsAre(Request::set_vring_base, Request::get_inflight_fd, Request::set_inflight_fd,
                                   Request::set_vring_kick, Request::set_vring_base, Request::get_inflight_fd,
                                   Request::set_inflight_fd, Request::set_vring_base, Request::set_vring_kick,
                                   Request::set_vring_kick));
  EXPECT_THAT(recorded(), Optional(two_in_flight())) << "what was in flight has moved to the new record";
}

TEST_F(ARecord, TellsWhatAStopHasLeft) {
  meet({{Request::get_vring_base_skip_drain, stopped_at(Request::get_vring_base_skip_drain, 2)}});
  start(0);
  take_two();
  const auto state = frontend_->stop_queue(QueueIndex{0}, StopMode::leave);
  ASSERT_TRUE(state) << state.error().text();
  EXPECT_EQ(*state, two_in_flight());
  EXPECT_EQ(seen(Request::get_vring_base), 0u);
}

TEST_F(ARecord, IsNotAskedWhereAllIsDone) {
  meet({{Request::get_vring_base, stopped_at(Request::get_vring_base, 2)}});
  start(0);
  take_two();
  memory_->store16(GuestMemory::used(0) + 2, 2);
  const auto state = frontend_->stop_queue(QueueIndex{0}, StopMode::drain);
  ASSERT_TRUE(state) << state.error().text();
  EXPECT_EQ(*state, (vdpa::QueueState{.avail = 2, .used = 2, .in_flight = {}}));
  EXPECT_EQ(seen(Request::get_vring_base_skip_drain), 0u);
}

TEST_F(ARecord, LeavesTheChoiceToDrain) {
  meet({}, kAll.minus({PF::get_vring_base_skip_drain}));
  EXPECT_TRUE(frontend_->protocol_features().has(PF::inflight_shmfd));
  EXPECT_FALSE(frontend_->protocol_features().has(PF::get_vring_base_inflight));
}

TEST_F(ARecord, TakesOverWhatIsInFlightElsewhere) {
  meet();
  ASSERT_TRUE(frontend_->set_features(FeatureSet{virtio::Feature::version_1}));
  const std::vector<memory::Region> regions{region()};
  ASSERT_TRUE(frontend_->map(regions));
  virtio::RingConfig moved = ring(0);
  moved.start = two_in_flight();
  const auto started = start_ring(0, moved);
  ASSERT_TRUE(started) << started.error().text();
  EXPECT_THAT(far_->bases(), ElementsAre(0u));
  EXPECT_THAT(recorded(), Optional(two_in_flight()));
}

TEST_F(ARecord, IsTakenFromABackendThatIsGone) {
  meet();
  start(0);
  take_two();
  die();
  EXPECT_EQ(*frontend_->stop_queue(QueueIndex{0}, StopMode::drain), two_in_flight());
}

TEST_F(ARecord, IsTakenFromABackendThatHasLeftForGood) {
  FrontendConfig config = disk();
  config.reconnect = false;
  meet({}, kAll, config);
  start(0);
  take_two();
  die();
  ASSERT_TRUE(run_until([&] { return observer_.gone.has_value(); }));
  EXPECT_THAT(frontend_->last_state(QueueIndex{0}), Optional(two_in_flight()));
  EXPECT_EQ(frontend_->last_state(QueueIndex{1}), std::nullopt);
}

TEST_F(ARecord, CannotBeToldToASuccessorThatKeepsNone) {
  meet();
  start(0);
  take_two();  // neither is what the available ring says at this place
  die();
  come({}, kNoRecord);
  ASSERT_TRUE(run_until([&] { return seen(Request::add_mem_reg) > 0; }));
  for (int i = 0; i < 50; ++i) loop_->run_ready();
  EXPECT_FALSE(frontend_->is_connected());
  EXPECT_EQ(seen(Request::set_vring_kick), 0u);
  far_.reset();
  come_again();
  EXPECT_THAT(recorded(), Optional(two_in_flight()));
}

}  // namespace
}  // namespace causeway::vhost_user::testing

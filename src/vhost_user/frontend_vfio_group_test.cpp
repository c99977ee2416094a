// VFIO groups that a back-end gives a Frontend, and a Port behind it its own driver side, which may have KVM. A
// character device stands for a group.
#include "vhost_user/frontend.h"
#include "vhost_user/frontend_fixture.h"

#include <fcntl.h>

namespace causeway::vhost_user::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using PF = ProtocolFeature;

OwnedFd open_group() {
  return OwnedFd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC));
}

FrontendConfig with_groups(FrontendConfig config) {
  config.vfio_groups = true;
  return config;
}

class AVfioGroupFromAfar : public FrontendTest {
 protected:
  void SetUp() override {
    FrontendTest::SetUp();
    far_ = std::make_unique<FarSide>(1, BackendConfig{.path = test_socket(), .options = {.vfio_groups = true}});
    change(true);
  }
  void tear_down_far_side() override { far_.reset(); }
  void change(bool has_one) {
    far_->ask([&](FakeDevice& device) {
      device.group.reset();
      if (has_one) device.group.emplace(open_group());
      for (const std::uint16_t queue : {std::uint16_t{0}, std::uint16_t{1}}) {
        if (device.runs(queue)) device.observer->vfio_group_changed(QueueIndex{queue});
      }
      return true;
    });
  }
  void open(bool reconnect = false) {
    FrontendConfig config = with_groups(usual());
    config.reconnect = reconnect;
    const auto made = make(config);
    ASSERT_TRUE(made) << made.error().text();
  }
  void have_one(bool reconnect = false) {
    open(reconnect);
    start(1);
    ASSERT_TRUE(run_until([&] { return has_one(); }));
  }
  bool has_one() const { return frontend_->vfio_group(QueueIndex{1}) != nullptr; }
  void turn_loop() {
    for (int i = 0; i < 100; ++i) loop_->run_ready();
  }
  std::unique_ptr<FarSide> far_;
};

TEST_F(AVfioGroupFromAfar, IsThatOfTheDeviceThere) {
  have_one();
  EXPECT_EQ(*identify(*frontend_->vfio_group(QueueIndex{1})), *identify(open_group()));
  EXPECT_THAT(observer_.groups, ElementsAre(1U));
  EXPECT_EQ(frontend_->vfio_group(QueueIndex{0}), nullptr);
}

TEST_F(AVfioGroupFromAfar, IsTakenOnlyWhenConfigured) {
  ASSERT_TRUE(make(usual()));
  EXPECT_FALSE(frontend_->protocol_features().has(PF::vfio_group));
  start(1);
  turn_loop();
  EXPECT_FALSE(has_one());
}

TEST_F(AVfioGroupFromAfar, IsGoneWhenItIsWithdrawn) {
  have_one();
  change(false);
  ASSERT_TRUE(run_until([&] { return !has_one(); }));
  EXPECT_THAT(observer_.groups, ElementsAre(1U, 1U));
}

TEST_F(AVfioGroupFromAfar, IsGoneWhenItsQueueStopsAndComesAgain) {
  have_one();
  ASSERT_TRUE(frontend_->stop_queue(QueueIndex{1}, vdpa::StopMode::drain));
  EXPECT_FALSE(has_one());
  ASSERT_TRUE(set_queue(1));
  ASSERT_TRUE(frontend_->enable_queue(QueueIndex{1}, true));
  EXPECT_TRUE(run_until([&] { return has_one(); }));
}

TEST_F(AVfioGroupFromAfar, ThatCameBeforeItsQueueStoppedIsNotThatOfTheNextStart) {
  open();
  start(1);
  ASSERT_TRUE(frontend_->stop_queue(QueueIndex{1}, vdpa::StopMode::drain));
  change(false);
  ASSERT_TRUE(set_queue(1));
  ASSERT_TRUE(frontend_->enable_queue(QueueIndex{1}, true));
  turn_loop();
  EXPECT_FALSE(has_one());
}

TEST_F(AVfioGroupFromAfar, IsGoneAfterAReset) {
  have_one();
  ASSERT_TRUE(frontend_->set_status(vdpa::Status::reset));
  turn_loop();
  EXPECT_FALSE(has_one());
}

TEST_F(AVfioGroupFromAfar, GoesWithItsBackendAndComesWithTheNext) {
  have_one(true);
  far_->leave();
  ASSERT_TRUE(run_until([&] { return !has_one(); }));
  EXPECT_EQ(observer_.groups.size(), 2U);
  far_->come_back();
  EXPECT_TRUE(run_until([&] { return has_one(); }));
}

TEST_F(AVfioGroupFromAfar, IsKnownOnceBehindAPortWhileOneOfItsQueuesRuns) {
  open();
  NearSide side;
  const auto port = put_behind_port(side);
  for (const std::uint16_t queue : {std::uint16_t{0}, std::uint16_t{1}}) {
    ASSERT_TRUE(start_behind(*port, QueueIndex{queue}));
  }
  ASSERT_TRUE(run_until([&] { return side.shares.size() == 2; }));
  EXPECT_THAT(side.told, ElementsAre("add"));
  ASSERT_TRUE(port->stop_queue(QueueIndex{0}));
  EXPECT_THAT(side.told, ElementsAre("add"));
  change(false);
  EXPECT_TRUE(run_until([&] { return side.told.size() == 2; }));
  change(true);
  EXPECT_TRUE(run_until([&] { return side.told.size() == 3; }));
  far_->leave();
  EXPECT_TRUE(run_until([&] { return side.told.size() == 4; }));
  EXPECT_THAT(side.told, ElementsAre("add", "remove", "add", "remove"));
  port->detach();
}

/// Messages that a test makes, byte by byte.
class ABadVfioGroup : public FrontendTest {
 protected:
  void SetUp() override {
    FrontendTest::SetUp();
    far_.emplace(
        ProtocolFeatures{PF::mq, PF::reply_ack, PF::config, PF::backend_req, PF::backend_send_fd, PF::vfio_group},
        ScriptedBackend::Script{});
    ASSERT_TRUE(make(with_groups(usual())));
    start(0);
    good_.emplace(open_group());
  }
  void tear_down_far_side() override {
    good_.reset();
    far_.reset();
  }
  /// What the Frontend answers: 0, 1, or nothing when it closes the channel.
  std::optional<std::uint64_t> say(const Bytes& payload, const std::vector<const OwnedFd*>& fds) {
    const auto number = std::to_underlying(BackendRequest::vring_vfio_group_msg);
    if (!far_->send_event(message(number, wire::kVersion | wire::kNeedReplyFlag, payload), fds)) return std::nullopt;
    for (int i = 0; i < 100; ++i) loop_->run_ready();
    const Bytes reply = far_->read_event_reply(kBackendReplySize);
    if (reply.size() != kBackendReplySize) return std::nullopt;
    return value_of<std::uint64_t>(std::span(reply).subspan(kHeaderSize));
  }
  std::optional<std::uint64_t> say(std::uint32_t queue, std::uint32_t flags, const std::vector<const OwnedFd*>& fds) {
    return say(bytes_of(wire::VringGroup{.queue = queue, .flags = flags}), fds);
  }
  bool has_one() const { return frontend_->vfio_group(QueueIndex{0}) != nullptr; }

  std::optional<ScriptedBackend> far_;
  std::optional<OwnedFd> good_;
};

TEST_F(ABadVfioGroup, IsRefusedAndTheNextOneTaken) {
  const auto memory = *make_memfd("no-group", kPage);
  EXPECT_EQ(say(0, 1, {}), 1U) << "no descriptor";
  EXPECT_EQ(say(0, 1, {&*good_, &*good_}), 1U) << "two descriptors";
  EXPECT_EQ(say(0, 0, {&*good_}), 1U) << "a withdrawal with a descriptor";
  EXPECT_EQ(say(0, 2, {&*good_}), 1U) << "an unknown flag";
  EXPECT_EQ(say(1, 1, {&*good_}), 1U) << "a queue that does not run";
  EXPECT_EQ(say(2, 1, {&*good_}), 1U) << "a queue that is not there";
  EXPECT_EQ(say(~0U, 1, {&*good_}), 1U) << "a queue that cannot be";
  EXPECT_EQ(say(0, 1, {&memory}), 1U) << "no group";
  EXPECT_FALSE(has_one());
  EXPECT_TRUE(observer_.groups.empty());
  EXPECT_EQ(say(0, 1, {&*good_}), 0U);
  EXPECT_TRUE(has_one());
  EXPECT_EQ(say(0, 1, {&memory}), 1U) << "what is there stays";
  EXPECT_TRUE(has_one());
  EXPECT_EQ(say(0, 0, {}), 0U);
  EXPECT_FALSE(has_one());
  EXPECT_EQ(say(0, 0, {}), 0U) << "a withdrawal of nothing";
  EXPECT_THAT(observer_.groups, ElementsAre(0U, 0U));
}

TEST_F(ABadVfioGroup, OfTheWrongSizeClosesTheChannelOnly) {
  EXPECT_EQ(say(bytes_of(0U, 1U, 0U), {&*good_}), std::nullopt);
  EXPECT_EQ(say(0, 1, {&*good_}), std::nullopt);
  EXPECT_FALSE(has_one());
  EXPECT_TRUE(frontend_->is_connected());
}

TEST_F(ABadVfioGroup, IsRefusedWhereGroupsAreNotConfigured) {
  frontend_.reset();
  far_.reset();
  far_.emplace(
      ProtocolFeatures{PF::mq, PF::reply_ack, PF::config, PF::backend_req, PF::backend_send_fd, PF::vfio_group},
      ScriptedBackend::Script{});
  ASSERT_TRUE(make(usual()));
  start(0);
  EXPECT_EQ(say(0, 1, {&*good_}), 1U);
  EXPECT_FALSE(has_one());
}

}  // namespace
}  // namespace causeway::vhost_user::testing

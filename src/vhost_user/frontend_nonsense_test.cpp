// Back-ends that answer nonsense, too little, or nothing; and good ones that can do little.
#include "vhost_user/frontend.h"
#include "vhost_user/frontend_fixture.h"

#include <algorithm>

namespace causeway::vhost_user::testing {
namespace {

using ::testing::HasSubstr;
using PF = ProtocolFeature;

constexpr std::uint32_t kReply = wire::kVersion | wire::kReplyFlag;
constexpr ProtocolFeatures kAll{PF::mq,     PF::reply_ack,           PF::mtu,         PF::config,
                                PF::status, PF::configure_mem_slots, PF::reset_device};

Bytes reply_of(Request request, std::uint32_t flags, const Bytes& payload) {
  return message(std::to_underlying(request), flags, payload);
}

class ABadBackend : public FrontendTest {
 protected:
  void tear_down_far_side() override { far_.reset(); }
  Result<void> meet(ScriptedBackend::Script script, ProtocolFeatures offered = kAll) {
    far_.emplace(offered, std::move(script));
    FrontendConfig config = usual();
    config.patience = milliseconds(100);
    return make(config);
  }
  std::string refusal(ScriptedBackend::Script script) {
    const auto made = meet(std::move(script));
    return made ? "accepted" : made.error().text();
  }
  std::size_t seen(Request request) {
    const auto all = far_->seen();
    return static_cast<std::size_t>(std::ranges::count(all, request));
  }
  std::optional<ScriptedBackend> far_;
};

TEST_F(ABadBackend, AnswersAnotherRequest) {
  EXPECT_THAT(refusal({{Request::get_features, {reply_of(Request::get_queue_num, kReply, bytes_of(1ULL))}}}),
              HasSubstr("GET_FEATURES: answered by a reply to GET_QUEUE_NUM"));
}

TEST_F(ABadBackend, AnswersWithTheWrongSize) {
  EXPECT_THAT(refusal({{Request::get_features, {reply_of(Request::get_features, kReply, bytes_of(1U))}}}),
              HasSubstr("GET_FEATURES: a reply of 4 bytes, must be 8"));
}

TEST_F(ABadBackend, AnswersWithoutTheReplyFlag) {
  EXPECT_THAT(refusal({{Request::get_features, {reply_of(Request::get_features, wire::kVersion, bytes_of(1ULL))}}}),
              HasSubstr("GET_FEATURES: a request, where a reply is due"));
}

TEST_F(ABadBackend, AnswersWithAHugePayload) {
  EXPECT_THAT(
      refusal({{Request::get_features, {bytes_of(wire::Header{.request = 1, .flags = kReply, .size = 1u << 30})}}}),
      HasSubstr("GET_FEATURES: a payload of 1073741824 bytes"));
}

TEST_F(ABadBackend, SendsDescriptorsAlong) {
  EXPECT_THAT(refusal({{Request::get_features,
                        {.bytes = reply_of(Request::get_features, kReply, bytes_of(1ULL << 30)), .descriptors = 3}}}),
              HasSubstr("GET_FEATURES: a reply with 3 descriptors, takes none"));
}

TEST_F(ABadBackend, StaysSilent) {
  EXPECT_THAT(refusal({{Request::get_queue_num, {}}}),
              HasSubstr("GET_QUEUE_NUM: the back-end has not answered in 100 ms"));
}

TEST_F(ABadBackend, StaysSilentInTheMiddleOfAReply) {
  Bytes half = reply_of(Request::get_features, kReply, bytes_of(1ULL));
  half.resize(15);
  EXPECT_THAT(refusal({{Request::get_features, {half}}}),
              HasSubstr("GET_FEATURES: the back-end has not answered in 100 ms"));
}

TEST_F(ABadBackend, HangsUp) {
  EXPECT_THAT(refusal({{Request::set_owner, {.bytes = {}, .hangs_up = true}}}),
              HasSubstr("SET_OWNER: the back-end has closed the connection"));
}

TEST_F(ABadBackend, HasNoProtocolFeatures) {
  EXPECT_THAT(refusal({{Request::get_features, {encode_reply(1, U64Answer{1})}}}),
              HasSubstr("does not speak protocol features"));
}

TEST_F(ABadBackend, HasNoQueues) {
  EXPECT_THAT(refusal({{Request::get_queue_num, {encode_reply(17, U64Answer{0})}}}),
              HasSubstr("the back-end has no queue"));
}

TEST_F(ABadBackend, SendsAShortConfiguration) {
  const wire::ConfigHead head{.offset = 0, .size = 12, .flags = 0};
  EXPECT_THAT(
      refusal({{Request::get_config, {reply_of(Request::get_config, kReply, bytes_of(head, std::uint32_t{0}))}}}),
      HasSubstr("GET_CONFIG: the reply says 12 bytes, carries 4"));
}

TEST_F(ABadBackend, SendsAConfigurationThatWasNotAskedFor) {
  const wire::ConfigHead head{.offset = 4, .size = 4, .flags = 0};
  EXPECT_THAT(
      refusal({{Request::get_config, {reply_of(Request::get_config, kReply, bytes_of(head, std::uint32_t{0}))}}}),
      HasSubstr("GET_CONFIG: 4 bytes at 4 come for 12 at 0"));
}

TEST_F(ABadBackend, GivesThePositionOfAnotherQueue) {
  ASSERT_TRUE(
      meet({{Request::get_vring_base,
             {reply_of(Request::get_vring_base, kReply, bytes_of(wire::VringState{.index = 1, .number = 0}))}}}));
  start(0);
  const auto stopped = frontend_->stop_queue(QueueIndex{0}, vdpa::StopMode::drain);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().text(), "GET_VRING_BASE: the position of queue 1 comes for queue 0");
  EXPECT_FALSE(frontend_->is_connected());
  ASSERT_TRUE(run_until([&] { return observer_.gone.has_value(); }));
  EXPECT_THAT(*observer_.gone, HasSubstr("GET_VRING_BASE"));
}

TEST_F(ABadBackend, SpeaksWithoutBeingAsked) {
  Bytes twice = encode_reply(20, Done{});
  const Bytes once = twice;
  twice.insert(twice.end(), once.begin(), once.end());
  ASSERT_TRUE(meet({{Request::net_set_mtu, {twice}}}));
  ASSERT_TRUE(frontend_->set_mtu(1500));
  ASSERT_TRUE(run_until([&] { return observer_.gone.has_value(); }));
  EXPECT_EQ(*observer_.gone, "the back-end sends where nothing was asked");
}

TEST_F(ABadBackend, RefusesTheFeaturesOnlyInItsStatus) {
  ASSERT_TRUE(meet({{Request::get_status, {encode_reply(40, U64Answer{3})}}}));
  using vdpa::Status;
  const auto set = frontend_->set_status(Status::acknowledge | Status::driver | Status::features_ok);
  ASSERT_FALSE(set);
  EXPECT_THAT(set.error().text(), HasSubstr("FEATURES_OK stays clear"));
}

TEST_F(ABadBackend, RefusesAQueue) {
  ASSERT_TRUE(meet({{Request::set_vring_addr, {encode_failure(9)}}}));
  const std::vector<memory::Region> regions{region()};
  ASSERT_TRUE(frontend_->map(regions));
  const auto started = set_queue(0);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().text(), "SET_VRING_ADDR: the back-end refuses (answers 1)");
  EXPECT_TRUE(frontend_->is_connected());
  EXPECT_FALSE(frontend_->stop_queue(QueueIndex{0}, vdpa::StopMode::drain));
}

TEST_F(ABadBackend, RefusesMemoryAndKeepsNoneOfIt) {
  ASSERT_TRUE(meet({{Request::add_mem_reg, {encode_failure(37)}}}));
  const std::vector<memory::Region> regions{region()};
  EXPECT_FALSE(frontend_->map(regions));
  EXPECT_FALSE(set_queue(0)) << "no memory, no ring";
}

class APoorBackend : public ABadBackend {};

TEST_F(APoorBackend, GetsTheWholeTableOfMemory) {
  ASSERT_TRUE(meet({}, {PF::reply_ack}));
  const std::vector<memory::Region> first{region(0, 16), region(1, 16)};
  const std::vector<memory::Region> rest{region(2, 16), region(3, 16), region(4, 16), region(5, 16),
                                         region(6, 16), region(7, 16), region(8, 16)};
  ASSERT_TRUE(frontend_->map(first));
  EXPECT_EQ(seen(Request::set_mem_table), 1u);
  const auto mapped = frontend_->map(rest);
  ASSERT_FALSE(mapped);
  EXPECT_THAT(mapped.error().text(), HasSubstr("SET_MEM_TABLE: 9 memory regions"));
  EXPECT_TRUE(frontend_->map(std::span(rest).first(6)));
  EXPECT_TRUE(frontend_->unmap(first));
  EXPECT_EQ(seen(Request::set_mem_table), 3u);
  EXPECT_EQ(seen(Request::add_mem_reg), 0u);
}

TEST_F(APoorBackend, IsAskedWhetherItHasComeSoFarWhenItCannotAcknowledge) {
  ASSERT_TRUE(meet({}, {}));
  const std::size_t before = seen(Request::get_features);
  const std::vector<memory::Region> regions{region()};
  ASSERT_TRUE(frontend_->map(regions));
  EXPECT_EQ(seen(Request::get_features), before + 1);
}

TEST_F(APoorBackend, HasAConfigurationOfOurs) {
  far_.emplace(ProtocolFeatures{PF::mq}, ScriptedBackend::Script{});
  FrontendConfig config = usual();
  config.mac = {2, 0, 0, 0, 0, 7};
  ASSERT_TRUE(make(config));
  EXPECT_TRUE(frontend_->info().features.has(virtio::NetFeature::mac));
  std::array<std::byte, 10> bytes{};
  ASSERT_TRUE(frontend_->read_config(0, bytes));
  EXPECT_EQ(bytes[5], std::byte{7});
  EXPECT_EQ(bytes[8], std::byte{1}) << "pairs";
  EXPECT_FALSE(frontend_->write_config(0, bytes));
  EXPECT_FALSE(frontend_->set_mtu(1500)) << "not negotiated";
}

}  // namespace
}  // namespace causeway::vhost_user::testing

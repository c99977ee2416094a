#include "daemon/migration.h"

#include "daemon/test_support.h"
#include "virtio/feature.h"
#include "virtio/net.h"

#include <gmock/gmock.h>

#include <cstddef>

namespace causeway::daemon {
namespace {

namespace api = control::v1;
using ::testing::HasSubstr;

/// Ports of one daemon, with no guest: a network port, one like it but for its rings, a disk, and a function.
std::string some_ports(const std::filesystem::path& directory) {
  return fmt::format(R"(
[[worker]]
name = "w0"
[[port]]
name = "net0"
socket = "{0}/net0.sock"
queue-pairs = 2
connection = "reflect"
mtu = 9000
mac = "52:54:00:00:00:01"
[[port]]
name = "net1"
socket = "{0}/net1.sock"
queue-pairs = 2
connection = "reflect"
mtu = 9000
features-off = ["ring_packed"]
[[port]]
name = "net2"
socket = "{0}/net2.sock"
queue-pairs = 2
connection = "reflect"
mtu = 9000
mac = "52:54:00:00:00:02"
postcopy = true
[[port]]
name = "disk0"
socket = "{0}/disk0.sock"
device = "blk"
connection = "ram:1M"
[[port]]
name = "function0"
socket = "{0}/function0.sock"
transport = "vfio-user"
connection = "reflect"
)",
                     directory.string());
}

class MigrationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto built = Graph::build(loop_, testing::parsed(some_ports(directory_.path())), Former::restore);
    ASSERT_TRUE(built.has_value()) << built.error().text();
    graph_ = std::move(*built);
  }

  api::MigrationNeedsResponse needs_of(const std::string& name) {
    api::MigrationNeedsRequest request;
    request.set_name(name);
    const auto response = migration_needs(*graph_, request);
    EXPECT_TRUE(response.has_value()) << response.error().text();
    return response ? *response : api::MigrationNeedsResponse();
  }
  std::string obstacle(const std::string& from, const std::string& to) {
    api::CanTakeRequest request;
    request.set_name(to);
    *request.mutable_needs() = needs_of(from).needs();
    const auto response = can_take(*graph_, request);
    EXPECT_TRUE(response.has_value()) << response.error().text();
    if (!response) return "error";
    EXPECT_EQ(response->can_take(), response->obstacle().empty());
    return response->obstacle();
  }

  testing::TemporaryDirectory directory_;
  Loop loop_;
  std::unique_ptr<Graph> graph_;
};

TEST_F(MigrationTest, WithNoGuestAllThatIsOfferedIsNeeded) {
  const auto response = needs_of("net0");
  EXPECT_EQ(response.obstacle(), "");
  const api::GuestNeeds& needs = response.needs();
  EXPECT_EQ(needs.device_type(), "net");
  EXPECT_FALSE(needs.has_guest());
  EXPECT_TRUE(virtio::FeatureSet(needs.features()).has(virtio::Feature::ring_packed));
  EXPECT_FALSE(virtio::FeatureSet(needs.features()).has(virtio::Feature::ring_reset)) << "no front-end is offered it";
  ASSERT_EQ(needs.queues_size(), 4);
  EXPECT_EQ(needs.queues(3).index(), 3U);
  EXPECT_EQ(needs.queues(3).size(), 1024U);
  EXPECT_EQ(needs.config().size(), 24U);
  EXPECT_EQ(needs.memory_regions(), 0U);
  EXPECT_FALSE(needs.in_flight());
}

TEST_F(MigrationTest, TheMtuIsWhatTheFrontEndHasTold) {
  const auto mtu = [this] { return needs_of("net0").needs().config().substr(offsetof(virtio::NetConfig, mtu), 2); };
  EXPECT_EQ(mtu(), "\x28\x23");
  const auto told = (*graph_->find("net0"))->port->set_mtu(1500);
  ASSERT_TRUE(told.has_value()) << told.error().text();
  EXPECT_EQ(mtu(), "\xdc\x05");
}

TEST_F(MigrationTest, APortCanTakeWhatIsLikeItself) {
  EXPECT_EQ(obstacle("net0", "net0"), "");
  EXPECT_EQ(obstacle("disk0", "disk0"), "");
}

TEST_F(MigrationTest, OtherPortsCannot) {
  EXPECT_THAT(obstacle("net0", "net1"), HasSubstr("a guest here could use ring_packed"));
  EXPECT_THAT(obstacle("net1", "net0"), HasSubstr("mac of the configuration space"));
  EXPECT_THAT(obstacle("net0", "disk0"), HasSubstr("the device is net here and blk there"));
  EXPECT_THAT(obstacle("net0", "function0"), HasSubstr("served as vfio-user"));
}

TEST_F(MigrationTest, APortForPostcopyHasEightMemorySlots) {
  api::CanTakeRequest request;
  request.set_name("net2");
  *request.mutable_needs() = needs_of("net2").needs();
  request.mutable_needs()->set_memory_regions(8);
  EXPECT_EQ(can_take(*graph_, request)->obstacle(), "");
  request.mutable_needs()->set_memory_regions(9);
  EXPECT_EQ(can_take(*graph_, request)->obstacle(),
            "the guest's memory has 9 regions, and port net2 there takes 8 at most");
  request.set_name("net0");
  request.mutable_needs()->set_features(0);
  EXPECT_EQ(can_take(*graph_, request)->obstacle(), "");
}

TEST_F(MigrationTest, APortThatIsNotThereIsAnAnswer) {
  EXPECT_EQ(obstacle("net0", "net9"),
            "there is no port 'net9' there: declare it in the configuration, or name another with --as");
}

TEST_F(MigrationTest, NoGuestCanLeaveAFunction) {
  EXPECT_THAT(needs_of("function0").obstacle(), HasSubstr("port function0 here is served as vfio-user"));
}

TEST_F(MigrationTest, APortThatIsNotHereIsAnError) {
  api::MigrationNeedsRequest request;
  request.set_name("net9");
  const auto response = migration_needs(*graph_, request);
  ASSERT_FALSE(response.has_value());
  EXPECT_EQ(response.error().code, Errc::not_found);
}

TEST_F(MigrationTest, NeedsThatMakeNoSenseAreAnError) {
  api::CanTakeRequest request;
  request.set_name("net0");
  const auto response = can_take(*graph_, request);
  ASSERT_FALSE(response.has_value());
  EXPECT_EQ(response.error().code, Errc::invalid_value);
  EXPECT_THAT(response.error().text(), HasSubstr("port net0: the needs are of a device ''"));
}

}  // namespace
}  // namespace causeway::daemon

#include "daemon/graph.h"

#include "daemon/control_handlers.h"
#include "daemon/test_support.h"
#include "virtio/net.h"

#include <gmock/gmock.h>

#include <thread>

namespace causeway::daemon {
namespace {

namespace api = control::v1;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::parsed;
using testing::TemporaryDirectory;
using testing::two_ports;

class GraphTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto built = Graph::build(loop_, parsed(two_ports(directory_.path())), Former::restore);
    ASSERT_TRUE(built.has_value()) << built.error().text();
    graph_ = std::move(*built);
  }

  api::Port show(const std::string& name) {
    api::ShowPortRequest request;
    request.set_name(name);
    const auto response = show_port(*graph_, request);
    EXPECT_TRUE(response.has_value()) << response.error().text();
    return response ? response->port() : api::Port();
  }

  TemporaryDirectory directory_;
  Loop loop_;
  std::unique_ptr<Graph> graph_;
};

TEST_F(GraphTest, PortsListenUntilTheGraphIsDestroyed) {
  EXPECT_TRUE(std::filesystem::is_socket(directory_.path() / "net0.sock"));
  EXPECT_TRUE(std::filesystem::is_socket(directory_.path() / "net1.sock"));
  graph_.reset();
  EXPECT_FALSE(std::filesystem::exists(directory_.path() / "net0.sock"));
  EXPECT_FALSE(std::filesystem::exists(directory_.path() / "net1.sock"));
}

TEST_F(GraphTest, ListsPortsAndWorkersInTheOrderOfTheConfiguration) {
  const auto list = list_ports(*graph_);
  ASSERT_EQ(list.ports_size(), 2);
  EXPECT_EQ(list.ports(0).name(), "net0");
  EXPECT_EQ(list.ports(1).name(), "net1");
  ASSERT_EQ(list.workers_size(), 2);
  EXPECT_EQ(list.workers(1).name(), "w1");
  EXPECT_EQ(list.workers(1).polling(), "sleep");
}

TEST_F(GraphTest, ShowsWhatThePortIs) {
  const api::Port port = show("net0");
  EXPECT_EQ(port.state(), "waiting");
  EXPECT_EQ(port.role(), "server");
  EXPECT_EQ(port.connection(), "switch:sw0");
  EXPECT_EQ(port.worker(), "w0");
  EXPECT_THAT(port.devices(), ElementsAre("a", "b"));
  EXPECT_THAT(port.features_offered(), Contains("version_1"));
  EXPECT_THAT(port.features_offered(), Not(Contains("event_idx")));
  EXPECT_EQ(port.net().mac(), "52:54:00:00:00:01");
  EXPECT_EQ(port.net().mtu(), 9000u);
  ASSERT_EQ(port.queues_size(), 5);
  EXPECT_EQ(port.queues(0).kind(), "receive");
  EXPECT_EQ(port.queues(1).kind(), "transmit");
  EXPECT_EQ(port.queues(4).kind(), "control");
  EXPECT_EQ(port.queues(0).device(), "a");
  EXPECT_EQ(port.queues(0).path(), "direct");
}

TEST_F(GraphTest, RebindMovesTheQueuesThatAreNamed) {
  api::RebindRequest request;
  request.set_name("net0");
  request.set_device("b");
  request.set_queue_pair(1);
  const auto moved = rebind(*graph_, request);
  ASSERT_TRUE(moved.has_value()) << moved.error().text();
  EXPECT_THAT(moved->queues(), ElementsAre(2u, 3u));
  const api::Port port = show("net0");
  EXPECT_EQ(port.queues(1).device(), "a");
  EXPECT_EQ(port.queues(2).device(), "b");
  EXPECT_EQ(port.queues(3).device(), "b");
  request.set_all(true);
  const auto all = rebind(*graph_, request);
  ASSERT_TRUE(all.has_value()) << all.error().text();
  EXPECT_THAT(all->queues(), ElementsAre(0u, 1u, 2u, 3u));
}

TEST(GraphOfBindings, QueuesBeginWhereTheConfigurationSays) {
  const TemporaryDirectory directory;
  std::string text = two_ports(directory.path());
  text.insert(text.find("devices ="), "bindings = ['b', 'a']\n");
  Loop loop;
  const auto graph = Graph::build(loop, parsed(text), Former::restore);
  ASSERT_TRUE(graph.has_value()) << graph.error().text();
  std::vector<std::string> devices;
  for (const auto& queue : (*graph)->ports().front().port->report().queues) devices.push_back(queue.device);
  EXPECT_THAT(devices, ElementsAre("b", "b", "a", "a", "b")) << "the control queue is the last Device's";
}

TEST_F(GraphTest, RebindErrorsSayWhatThereIs) {
  const auto error_of = [&](const api::RebindRequest& request) {
    const auto result = rebind(*graph_, request);
    return result ? "no error" : result.error().text();
  };
  api::RebindRequest request;
  request.set_name("net9");
  request.set_device("b");
  EXPECT_EQ(error_of(request), "there is no port 'net9'");
  request.set_name("net0");
  EXPECT_THAT(error_of(request), HasSubstr("port net0: no queue is named; expected a queue, a queue pair or all"));
  request.set_queue(4);
  EXPECT_THAT(error_of(request), HasSubstr("there is no data queue 4; expected 0 to 3"));
  request.set_queue_pair(2);
  EXPECT_THAT(error_of(request), HasSubstr("there is no queue pair 2; expected 0 to 1"));
  request.set_queue(0);
  request.set_device("c");
  EXPECT_THAT(error_of(request), HasSubstr("port net0: there is no device 'c'; expected a or b"));
  EXPECT_EQ(show("net0").queues(0).device(), "a");
}

TEST_F(GraphTest, SocketInUseIsAnErrorThatNamesThePort) {
  auto same = parsed(two_ports(directory_.path()));
  same.daemon.state.clear();
  const auto second = Graph::build(loop_, same, Former::restore);
  ASSERT_FALSE(second.has_value());
  EXPECT_THAT(second.error().text(), HasSubstr("net0"));
  EXPECT_THAT(second.error().text(), HasSubstr("in use"));
}

/// A daemon whose one port reflects, in a thread of its own.
class OtherDaemon {
 public:
  explicit OtherDaemon(const std::string& config)
      : graph_(std::move(*Graph::build(loop_, parsed(config), Former::restore))) {
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~OtherDaemon() {
    loop_.call([this] {
      graph_.reset();
      return true;
    });
    loop_.stop();
    thread_.join();
  }
  OtherDaemon(const OtherDaemon&) = delete;
  OtherDaemon& operator=(const OtherDaemon&) = delete;

 private:
  Loop loop_;
  std::unique_ptr<Graph> graph_;
  std::thread thread_;
};

TEST(GraphOfTwoDaemons, APortMayHaveAnotherDaemonsPortAsItsDevice) {
  const TemporaryDirectory directory;
  const std::string path = directory.path().string();
  const OtherDaemon other(
      fmt::format("[[port]]\nname = 'far'\nsocket = '{}/far.sock'\nconnection = 'reflect'\nmtu = 1400\n", path));
  Loop loop;
  const auto near =
      Graph::build(loop,
                   parsed(fmt::format("[[device]]\nname = 'chain'\nkind = 'vhost-user'\nsocket = '{0}/far.sock'\n"
                                      "[[port]]\nname = 'near'\nsocket = '{0}/near.sock'\nconnection = 'sink'\n"
                                      "devices = ['chain']\n",
                                      path)),
                   Former::restore);
  ASSERT_TRUE(near.has_value()) << near.error().text();
  const auto report = (*near)->ports().front().port->report();
  EXPECT_THAT(report.devices, ElementsAre("chain"));
  EXPECT_TRUE(report.offered.has(virtio::NetFeature::mtu)) << "of the other daemon's port";
  EXPECT_EQ(report.queues.size(), 3u) << "one pair, and the control queue";
}

}  // namespace
}  // namespace causeway::daemon

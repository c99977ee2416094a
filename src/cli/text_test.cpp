#include "cli/text.h"

#include "cli/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace causeway::cli {
namespace {

using testing::HasSubstr;

control::v1::Port some_port() {
  control::v1::Port port;
  port.set_name("net0");
  port.set_state("running");
  port.set_role("server");
  port.set_connection("switch:sw0");
  port.set_socket("/run/net0.sock");
  port.set_worker("w0");
  port.mutable_net()->set_mac("52:54:00:00:00:01");
  auto& queue = *port.add_queues();
  queue.set_kind("receive");
  queue.set_size(256);
  queue.set_started(true);
  queue.set_enabled(true);
  queue.set_device("soft");
  queue.set_path("direct");
  (*queue.mutable_counters())["packets"] = 7;
  (*queue.mutable_counters())["bytes"] = 420;
  return port;
}

TEST(Table, AlignsColumnsAndEndsLinesWithoutBlanks) {
  EXPECT_EQ(table({{"A", "BB", "C"}, {"aaa", "b"}, {"a", "b", "c"}}), "A    BB  C\naaa  b\na    b   c\n");
  EXPECT_EQ(table({}), "");
}

TEST(PortList, HasOneLinePerPort) {
  control::v1::ListPortsResponse response;
  *response.add_ports() = some_port();
  EXPECT_EQ(text(response),
            "NAME  STATE    CONNECTION  QUEUES  MAC                WORKER  ROLE    SOCKET\n"
            "net0  running  switch:sw0  1/1     52:54:00:00:00:01  w0      server  /run/net0.sock\n");
}

TEST(PortText, ShowsQueuesWithCountersByName) {
  EXPECT_THAT(text(some_port()), HasSubstr("0      receive  256   running  soft    direct  bytes=420 packets=7\n"));
}

TEST(PortText, SaysWhoHasADoorbell) {
  auto port = some_port();
  port.mutable_queues(0)->set_doorbell("accepted");
  EXPECT_THAT(text(port), HasSubstr("packets=7 doorbell=accepted\n"));
  port.mutable_queues(0)->set_doorbell("none");
  EXPECT_THAT(text(port), HasSubstr("packets=7\n"));
}

TEST(PortText, SaysWhichDevicesCannotBeUsed) {
  auto port = some_port();
  port.add_devices("nic0");
  port.add_devices("soft");
  (*port.mutable_unusable())["nic0"] = "it lacks mq";
  EXPECT_THAT(text(port), HasSubstr("unusable     nic0: it lacks mq\n"));
}

TEST(Json, KeepsTheNamesOfTheProtoAndPrintsZeros) {
  const auto output = json(some_port());
  ASSERT_TRUE(output.has_value());
  EXPECT_THAT(*output, HasSubstr("\"memory_regions\": 0"));
  EXPECT_THAT(*output, HasSubstr("\"packets\": \"7\""));
  EXPECT_EQ(output->find("\"mtu\""), std::string::npos);
}

}  // namespace
}  // namespace causeway::cli

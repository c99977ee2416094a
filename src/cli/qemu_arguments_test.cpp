#include "cli/qemu_arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <control/causeway.pb.h>

namespace causeway::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

control::v1::Port some_port() {
  control::v1::Port port;
  port.set_name("net0");
  port.set_role("server");
  port.set_socket("/run/net0.sock");
  port.mutable_net()->set_mac("52:54:00:00:00:01");
  port.mutable_net()->set_queue_pairs(1);
  port.mutable_net()->set_queue_size(256);
  return port;
}

TEST(QemuArguments, OfAPortThatListens) {
  const auto arguments = qemu_arguments(some_port(), "2G");
  ASSERT_TRUE(arguments.has_value()) << arguments.error().text();
  EXPECT_THAT(
      *arguments,
      ElementsAre("-m", "size=2G", "-object", "memory-backend-memfd,id=causeway-mem,size=2G,share=on", "-machine",
                  "memory-backend=causeway-mem", "-chardev", "socket,id=chr-net0,path=/run/net0.sock,reconnect-ms=1000",
                  "-netdev", "vhost-user,id=net-net0,chardev=chr-net0,queues=1", "-device",
                  "virtio-net-pci,netdev=net-net0,mac=52:54:00:00:00:01,disable-legacy=on,vectors=4"));
}

TEST(QemuArguments, OfAPortThatConnectsWithQueuePairsAndMtu) {
  auto port = some_port();
  port.set_role("client");
  port.mutable_net()->set_queue_pairs(4);
  port.mutable_net()->set_queue_size(2048);
  port.mutable_net()->set_mtu(9000);
  const auto arguments = qemu_arguments(port, "1G");
  ASSERT_TRUE(arguments.has_value()) << arguments.error().text();
  EXPECT_EQ(arguments->at(7), "socket,id=chr-net0,path=/run/net0.sock,server=on,wait=off");
  EXPECT_EQ(arguments->at(9), "vhost-user,id=net-net0,chardev=chr-net0,queues=4");
  EXPECT_THAT(arguments->at(11), HasSubstr(",vectors=10,mq=on,rx_queue_size=1024,tx_queue_size=1024,host_mtu=9000"));
}

TEST(QemuArguments, CommasInThePathAreDoubledAndBlanksQuotedForTheShell) {
  auto port = some_port();
  port.set_socket("/run/a,b c.sock");
  const auto arguments = qemu_arguments(port, "1G");
  ASSERT_TRUE(arguments.has_value()) << arguments.error().text();
  EXPECT_THAT(arguments->at(7), HasSubstr("path=/run/a,,b c.sock,"));
  EXPECT_THAT(shell_line(*arguments), HasSubstr(" 'socket,id=chr-net0,path=/run/a,,b c.sock,reconnect-ms=1000' "));
  EXPECT_EQ(shell_line({"it's", ""}), "'it'\\''s' ''\n");
}

TEST(QemuArguments, RefuseRingsThatQemuDoesNotHave) {
  auto port = some_port();
  port.mutable_net()->set_queue_size(128);
  const auto arguments = qemu_arguments(port, "1G");
  ASSERT_FALSE(arguments.has_value());
  EXPECT_THAT(arguments.error().text(), HasSubstr("queue-size is 128, but QEMU's rings have at least 256"));
}

}  // namespace
}  // namespace causeway::cli

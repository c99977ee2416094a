#include "daemon/config/config.h"

#include "daemon/config/mac_address.h"
#include "virtio/net.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace causeway::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;

constexpr std::string_view kFile = "causeway.toml";

Config parsed(std::string_view text) {
  auto config = parse_config(text, kFile);
  EXPECT_TRUE(config.has_value()) << config.error().text();
  return config ? *config : Config{};
}

std::string error_of(std::string_view text) {
  const auto config = parse_config(text, kFile);
  return config ? "no error" : config.error().text();
}

/// A port that is right but for `line`, which is line 6.
std::string port_with(std::string_view line, std::string_view connection = "reflect") {
  return fmt::format("[[port]]\nname = 'net0'\nsocket = '/run/net0.sock'\nconnection = '{}'\n\n{}\n", connection, line);
}

TEST(Config, EmptyTextGivesDefaults) {
  const Config config = parsed("");
  EXPECT_EQ(config.daemon, DaemonConfig{});
  ASSERT_THAT(config.workers, SizeIs(1));
  EXPECT_EQ(config.workers[0].name, "default");
  EXPECT_EQ(config.workers[0].polling, Polling::adaptive);
  EXPECT_EQ(config.workers[0].spin, std::chrono::microseconds(50));
  EXPECT_THAT(config.ports, SizeIs(0));
}

TEST(Config, ReadsEveryKey) {
  const Config config = parsed(R"(
[daemon]
control = "/tmp/c.sock"
log-level = "debug"
state = "/tmp/kept"
[[worker]]
name = "w0"
cpu = 1
polling = "poll"
spin-us = 7
[[worker]]
name = "w1"
[[switch]]
name = "sw0"
worker = "w1"
[[port]]
name = "net0"
socket = "/tmp/net0.sock"
role = "client"
device = "net"
queue-pairs = 4
queue-size = 256
mac = "52:54:00:00:00:01"
mtu = 9000
worker = "w1"
connection = "switch:sw0"
devices = ["a", "b"]
bindings = ["a", "b", "b", "a"]
failback = "manual"
features-off = ["mrg_rxbuf", "event_idx"]
inband-notifications = true
vfio-groups = true
)");
  EXPECT_EQ(config.daemon, (DaemonConfig{.control = "/tmp/c.sock", .log_level = "debug", .state = "/tmp/kept"}));
  ASSERT_THAT(config.workers, SizeIs(2));
  EXPECT_EQ(config.workers[0].cpu, 1u);
  EXPECT_EQ(config.workers[0].polling, Polling::poll);
  EXPECT_EQ(config.workers[0].spin, std::chrono::microseconds(7));
  EXPECT_THAT(config.switches, ElementsAre(SwitchConfig{.name = "sw0", .worker = "w1"}));
  const PortConfig expected{
      .name = "net0",
      .socket = "/tmp/net0.sock",
      .role = Role::client,
      .device = virtio::DeviceType::net,
      .queue_pairs = 4,
      .queue_size = 256,
      .mac = {.bytes = {0x52, 0x54, 0, 0, 0, 1}},
      .mtu = 9000,
      .worker = "w1",
      .connection = {Connection::Kind::to_switch, "sw0"},
      .devices = {"a", "b"},
      .bindings = {"a", "b", "b", "a"},
      .failback = Failback::manual,
      .features_off = virtio::FeatureSet{virtio::NetFeature::mrg_rxbuf}.with(virtio::Feature::event_idx),
      .inband_notifications = true,
      .vfio_groups = true,
      .disk = std::nullopt,
  };
  ASSERT_THAT(config.ports, SizeIs(1));
  EXPECT_EQ(config.ports[0], expected);
}

TEST(Config, PortDefaults) {
  const Config config = parsed(port_with(""));
  ASSERT_THAT(config.ports, SizeIs(1));
  const PortConfig& port = config.ports[0];
  EXPECT_EQ(port.role, Role::server);
  EXPECT_EQ(port.queue_pairs, 1);
  EXPECT_EQ(port.mac, mac_from_name("net0"));
  EXPECT_FALSE(port.mtu.has_value());
  EXPECT_EQ(port.worker, "default");
  EXPECT_THAT(port.devices, ElementsAre("soft"));
  EXPECT_THAT(port.bindings, SizeIs(0));
  EXPECT_EQ(port.failback, Failback::automatic);
  EXPECT_EQ(port.features_off, virtio::FeatureSet{});
}

TEST(Config, ConnectionsOfEveryKind) {
  using Kind = Connection::Kind;
  const std::pair<std::string_view, Connection> cases[] = {
      {"tap:tap0", {.kind = Kind::tap, .name = "tap0"}},
      {"reflect", {.kind = Kind::reflect, .name = ""}},
      {"sink", {.kind = Kind::sink, .name = ""}},
      {"source", {.kind = Kind::source, .name = ""}},
      {"source:512", {.kind = Kind::source, .name = "", .frame_bytes = 512}},
  };
  for (const auto& [text, connection] : cases) {
    EXPECT_EQ(parsed(port_with("", text)).ports.at(0).connection, connection) << text;
  }
}

TEST(Config, PortOnSwitchRunsOnTheSwitchsWorker) {
  const std::string text =
      "[[worker]]\nname='w0'\n[[worker]]\nname='w1'\n[[switch]]\nname='sw0'\nworker='w1'\n"
      "[[port]]\nname='a'\nsocket='/a'\nconnection='switch:sw0'\n";
  EXPECT_EQ(parsed(text).ports.at(0).worker, "w1");
  EXPECT_THAT(
      error_of(text + "worker='w0'\n"),
      StartsWith("causeway.toml:12: port 'a': key 'worker' is \"w0\"; expected \"w1\", the worker of its switch"));
}

struct Bad {
  std::string_view line;   ///< line 6 of a port that is right otherwise
  std::string_view error;  ///< what the message must contain
};

class BadPortLine : public testing::TestWithParam<Bad> {};

TEST_P(BadPortLine, IsNamedWithFileLineKeyAndExpectation) {
  const std::string error = error_of(port_with(GetParam().line));
  EXPECT_THAT(error, StartsWith("causeway.toml:6: port 'net0': "));
  EXPECT_THAT(error, HasSubstr(GetParam().error));
}

INSTANTIATE_TEST_SUITE_P(
    EachKey, BadPortLine,
    testing::Values(Bad{"queue-pairs = 33", "key 'queue-pairs' is 33; expected a whole number from 1 to 16"},
                    Bad{"queue-pairs = 0", "key 'queue-pairs' is 0;"},
                    Bad{"queue-pairs = 1.5", "key 'queue-pairs' is 1.5;"},
                    Bad{"queue-pairs = '4'", "key 'queue-pairs' is \"4\";"}, Bad{"queue-pairs = [1]", "is an array;"},
                    Bad{"queue-pairs = {a = 1}", "is a table;"}, Bad{"queue-pairs = 2020-01-01", "is a date or time;"},
                    Bad{"queue-size = 300", "key 'queue-size' is 300; expected a power of two from 2 to 32768"},
                    Bad{"queue-size = 65536", "expected a whole number from 2 to 32768"},
                    Bad{"mtu = 67", "key 'mtu' is 67; expected a whole number from 68 to 65535"},
                    Bad{"role = 'master'", "key 'role' is \"master\"; expected \"server\" or \"client\""},
                    Bad{"device = 'disk'", "key 'device' is \"disk\"; expected \"net\""},
                    Bad{"mac = '52:54:00:00:00'", "expected a unicast MAC address"},
                    Bad{"mac = '53:54:00:00:00:01'", "expected a unicast MAC address"},
                    Bad{"mac = '52-54-00-00-00-01'", "expected a unicast MAC address"},
                    Bad{"mac = '00:00:00:00:00:00'", "expected a unicast MAC address"},
                    Bad{"worker = 'w9'", "key 'worker' is \"w9\"; expected the name of a worker: \"default\""},
                    Bad{"devices = []", "expected an array of 1 to 8 different names"},
                    Bad{"devices = ['a', 'a']", "expected an array of 1 to 8 different names"},
                    Bad{"devices = ['a', 1]", "key 'devices' contains 1; expected an array"},
                    Bad{"bindings = 'soft'", "key 'bindings' is \"soft\"; expected an array of 1 names of the port's"},
                    Bad{"bindings = []", "one for each queue pair; it has 0"},
                    Bad{"bindings = ['soft', 'soft']",
                        "key 'bindings' is an array; expected an array of 1 names of the port's devices, one for each "
                        "queue pair; it has 2"},
                    Bad{"bindings = ['hard']", "one for each queue pair; \"hard\" is none"},
                    Bad{"bindings = [1]", "key 'bindings' contains 1; expected an array of 1 names"},
                    Bad{"failback = 'never'", "key 'failback' is \"never\"; expected \"auto\" or \"manual\""},
                    Bad{"features-off = ['warp']",
                        "key 'features-off' is an array; expected an array of virtio feature names"},
                    Bad{"inband-notifications = 1", "key 'inband-notifications' is 1; expected true or false"},
                    Bad{"vfio-groups = 'all'", "key 'vfio-groups' is \"all\"; expected true or false"},
                    Bad{"queue-pair = 4", "key \"queue-pair\" is unknown; did you mean 'queue-pairs'?"},
                    Bad{"colour = 'red'", "key \"colour\" is unknown; expected one of name, socket"}));

TEST(Config, APortThatIsAFunctionHasNothingOfVhostUser) {
  for (const std::string key : {"inband-notifications", "vfio-groups", "postcopy"}) {
    EXPECT_THAT(error_of(port_with("transport = 'vfio-user'\n" + key + " = true")),
                HasSubstr("key '" + key + "' is true; expected no such key where transport is not \"vhost-user\""));
  }
}

TEST(Config, PostCopyNeedsDevicesOfTheDaemonsOwn) {
  EXPECT_TRUE(parsed(port_with("postcopy = true")).ports.at(0).postcopy);
  const std::string device = "[[device]]\nname='acc'\nkind='vfio-user'\nsocket='/tmp/acc.sock'\n";
  EXPECT_THAT(
      error_of(device + port_with("postcopy = true\ndevices = ['acc', 'soft']")),
      HasSubstr("key 'postcopy' is true; expected no such key where device \"acc\" is none of the daemon's own"));
}

class BadConnection : public testing::TestWithParam<std::string_view> {};

TEST_P(BadConnection, IsRefused) {
  EXPECT_THAT(error_of(port_with("", GetParam())), StartsWith("causeway.toml:4: port 'net0': key 'connection' is "));
}

INSTANTIATE_TEST_SUITE_P(Words, BadConnection,
                         testing::Values("switch:none", "switch", "tap", "tap:", "tap:a-name-too-long-for-it",
                                         "tap:a/b", "reflect:x", "tcp:1", ""));

TEST(Config, MissingKeysAreNamedAtTheTable) {
  EXPECT_EQ(error_of("\n[[port]]\nname = 'net0'\n"),
            "causeway.toml:2: port 'net0': key 'socket' is missing; expected the path of the port's socket");
  EXPECT_THAT(error_of("[[port]]\nsocket = '/a'\n"),
              StartsWith("causeway.toml:1: port number 1: key 'name' is missing;"));
  EXPECT_THAT(error_of("[[port]]\nname = 'a'\nsocket = '/a'\n"), HasSubstr("key 'connection' is missing; expected"));
}

TEST(Config, DevicesThatAreOtherProcesses) {
  const std::string devices =
      "[[device]]\nname='near'\nkind='vhost-user'\nsocket='/tmp/near.sock'\n"
      "[[device]]\nname='far'\nkind='vhost-user'\nsocket='/tmp/"
      "far.sock'\nrole='server'\nreconnect=false\nvfio-groups=true\n";
  const Config config = parsed(devices + port_with("devices = ['far', 'soft']"));
  EXPECT_THAT(config.devices, ElementsAre(DeviceConfig{.name = "near", .socket = "/tmp/near.sock", .address = {}},
                                          DeviceConfig{.name = "far",
                                                       .socket = "/tmp/far.sock",
                                                       .address = {},
                                                       .role = Role::server,
                                                       .reconnect = false,
                                                       .vfio_groups = true}));
  EXPECT_THAT(config.ports.at(0).devices, ElementsAre("far", "soft"));

  EXPECT_THAT(error_of("[[device]]\nname='d'\n"),
              HasSubstr("device 'd': key 'kind' is missing; expected \"vhost-user\""));
  EXPECT_THAT(error_of("[[device]]\nname='d'\nkind='disk'\n"), HasSubstr("key 'kind' is \"disk\";"));
  EXPECT_THAT(error_of("[[device]]\nname='d'\nkind='vhost-user'\n"), HasSubstr("key 'socket' is missing"));
  EXPECT_THAT(error_of(devices + devices), HasSubstr("expected a name that no other device has"));
  const std::string second = "[[port]]\nname='net1'\nsocket='/tmp/1.sock'\nconnection='sink'\ndevices=['far']\n";
  EXPECT_THAT(error_of(devices + port_with("devices = ['far']") + second),
              HasSubstr("expected no \"far\", which belongs to port 'net0'"));
}

TEST(Config, ADisksBindingsAreOfItsQueues) {
  const std::string disk = "device = 'blk'\nqueues = 3\ndevices = ['near', 'soft']\n";
  const Config config = parsed(port_with(disk + "bindings = ['soft', 'near', 'near']", "ram:1M"));
  EXPECT_THAT(config.ports.at(0).bindings, ElementsAre("soft", "near", "near"));
  EXPECT_THAT(
      error_of(port_with(disk + "bindings = ['soft', 'near']", "ram:1M")),
      StartsWith("causeway.toml:9: port 'net0': key 'bindings' is an array; expected an array of 3 names of the "
                 "port's devices, one for each queue; it has 2"));
}

TEST(Config, NamesAndSocketsAndMacsAreUnique) {
  const std::string one = port_with("mac = '52:54:00:00:00:01'");
  EXPECT_THAT(error_of(one + one),
              HasSubstr(":8: port number 2: key 'name' is \"net0\"; expected a name that no other"));
  const std::string two = "[[port]]\nname='net1'\nconnection='sink'\n";
  EXPECT_THAT(error_of(one + two + "socket='/run/./net0.sock'\n"),
              HasSubstr("expected a path other than that of port 'net0'"));
  EXPECT_THAT(error_of(one + two + "socket='/run/causeway/control.sock'\n"),
              HasSubstr("other than the control socket's"));
  EXPECT_THAT(error_of(one + two + "socket='/b'\nmac='52:54:00:00:00:01'\n"),
              HasSubstr("other than that of port 'net0'"));
  EXPECT_THAT(error_of("[[worker]]\nname='a'\n[[worker]]\nname='a'\n"), HasSubstr(":4: worker number 2: key 'name'"));
  EXPECT_THAT(error_of("[[switch]]\nname='a'\n[[switch]]\nname='a'\n"), HasSubstr(":4: switch number 2: key 'name'"));
}

TEST(Config, SocketPathsFitASocketAddress) {
  const std::string longest(kMaxSocketPath, 'x');
  EXPECT_EQ(parsed("[[port]]\nname='a'\nconnection='sink'\nsocket='" + longest + "'").ports.at(0).socket, longest);
  EXPECT_THAT(error_of("[daemon]\ncontrol='" + longest + "x'"), HasSubstr("expected a path of 1 to 107 characters"));
  EXPECT_THAT(error_of("[daemon]\ncontrol=\"a\\u0000b\""), HasSubstr("key 'control' is \"a\\x00b\"; expected a path"));
}

TEST(Config, DaemonWorkerAndSwitchErrors) {
  EXPECT_THAT(error_of("[daemon]\nlog-level='loud'"),
              StartsWith("causeway.toml:2: daemon: key 'log-level' is \"loud\"; expected"));
  EXPECT_THAT(error_of("daemon = 3"), HasSubstr("key 'daemon' is 3; expected a table under a header [daemon]"));
  EXPECT_THAT(error_of("[port]\nname='a'"),
              HasSubstr("key 'port' is a table; expected tables, each under a header [[port]]"));
  EXPECT_THAT(error_of("worker = [1]"), HasSubstr("key 'worker' is an array; expected tables"));
  EXPECT_THAT(error_of("[[worker]]\nname='w'\ncpu=-1"),
              StartsWith("causeway.toml:3: worker 'w': key 'cpu' is -1; expected"));
  EXPECT_THAT(error_of("[[worker]]\nname='w'\npolling='busy'"),
              HasSubstr("expected \"adaptive\", \"poll\" or \"sleep\""));
  EXPECT_THAT(error_of("[[worker]]\nname='-w'"), HasSubstr("key 'name' is \"-w\"; expected a name of 1 to 64 letters"));
  EXPECT_THAT(error_of("[[switch]]\nname='s'\nworker='w'"),
              StartsWith("causeway.toml:3: switch 's': key 'worker' is \"w\""));
  EXPECT_THAT(error_of("[[ports]]\nname='a'"), HasSubstr("key \"ports\" is unknown; did you mean 'port'?"));
}

TEST(Config, SyntaxErrorsNameTheLine) {
  EXPECT_THAT(error_of("[daemon]\ncontrol = \n"), StartsWith("causeway.toml:2: "));
  EXPECT_THAT(error_of("[daemon]\n[daemon]\n"), StartsWith("causeway.toml:2: "));
  EXPECT_THAT(error_of("a = 1\na = 2\n"), StartsWith("causeway.toml:2: "));
  EXPECT_THAT(error_of("\xff\xfe"), StartsWith("causeway.toml:1: "));
}

TEST(Config, HugeAndDeepTextsAreRefused) {
  EXPECT_THAT(error_of("\n" + std::string(5000, 'a')), StartsWith("causeway.toml:2: the line is too long;"));
  EXPECT_THAT(error_of(std::string((1 << 20) + 1, '\n')), HasSubstr("the file is too large"));
  EXPECT_THAT(error_of("a.b.c.d.e.f.g.h = 1"), HasSubstr("nested too deep"));
}

TEST(Config, MissingFileIsNamed) {
  const auto config = load_config("/nonexistent/causeway.toml");
  ASSERT_FALSE(config.has_value());
  EXPECT_EQ(config.error().text(),
            "cannot open the configuration file /nonexistent/causeway.toml: No such file or directory");
}

RC_GTEST_PROP(Config, AnyTextGivesAConfigurationOrAnErrorWithALine, (const std::string& text)) {
  const auto config = parse_config(text, kFile);
  const bool is_right = config ? !config->workers.empty() : config.error().what.starts_with("causeway.toml:");
  RC_ASSERT(is_right);
}

RC_GTEST_PROP(MacFromName, IsStableLocalAndUnicast, (const std::string& name)) {
  const net::MacAddress mac = mac_from_name(name);
  RC_ASSERT(mac == mac_from_name(name));
  RC_ASSERT((mac.bytes[0] & 3) == 2);
}

TEST(MacFromName, DiffersBetweenNames) {
  EXPECT_NE(mac_from_name("net0"), mac_from_name("net1"));
}

}  // namespace
}  // namespace causeway::config

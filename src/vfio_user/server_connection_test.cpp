// What no good client sends, and what other clients than ours do.
#include "vfio_user/fake_function_fixture.h"

#include <gtest/gtest.h>

#include <poll.h>

#include <array>
#include <string_view>

namespace causeway::vfio_user::testing {
namespace {

struct RawClient : ::testing::Test {
  static wire::Header header(Command command, std::uint32_t flags = 0) {
    return {.id = 7, .command = std::to_underlying(command), .size = 0, .flags = flags, .error = 0};
  }
  template <class T>
  static Bytes payload(const T& value) {
    Bytes bytes;
    append(bytes, value);
    return bytes;
  }
  void say(Command command, const Bytes& body, std::span<const OwnedFd* const> fds = {}) {
    ASSERT_TRUE(send(*server.client, header(command), body, fds));
  }
  std::optional<Message> hear() {
    for (;;) {
      auto message = inbox.read(*server.client);
      if (!message) return std::nullopt;
      if (*message) return std::move(**message);
      pollfd entry{.fd = server.client->fd().borrow(), .events = POLLIN, .revents = 0};
      ::poll(&entry, 1, 10000);
    }
  }
  /// The errno of the reply; 0 when it is none, -1 when the connection has ended.
  int ask(Command command, const Bytes& body, std::span<const OwnedFd* const> fds = {}) {
    say(command, body, fds);
    const auto reply = hear();
    if (!reply) return -1;
    return (reply->header.flags & wire::kError) != 0 ? static_cast<int>(reply->header.error) : 0;
  }
  static Bytes version(std::string_view json, std::uint16_t major = 0) {
    Bytes body = payload(wire::Version{.major = major, .minor = 1});
    const auto text = std::as_bytes(std::span(json));
    body.insert(body.end(), text.begin(), text.end());
    return body;
  }
  void greet() { ASSERT_EQ(ask(Command::version, version({})), 0); }

  ServerThread server;
  Inbox inbox;
};

TEST_F(RawClient, VersionComesFirst) {
  EXPECT_EQ(ask(Command::device_reset, {}), EINVAL);
  greet();
  EXPECT_EQ(ask(Command::device_reset, {}), 0);
}

TEST_F(RawClient, AnotherMajorVersionIsRefusedAndTheConnectionEnds) {
  EXPECT_EQ(ask(Command::version, version({}, 1)), ENOTSUP);
  EXPECT_FALSE(hear());
}

TEST_F(RawClient, CapabilitiesMayBeLeftOut) {
  using namespace std::string_view_literals;
  EXPECT_EQ(ask(Command::version, version("{\"capabilities\":{\"max_msg_fds\":8,\"x\":[1]}}\0"sv)), 0);
}

TEST_F(RawClient, BrokenCapabilitiesEndTheConnection) {
  using namespace std::string_view_literals;
  for (const auto text :
       {"{"sv, "{}"sv, "[]\0"sv, "{\"capabilities\":7}\0"sv, "{\"capabilities\":{\"max_msg_fds\":-1}}\0"sv,
        "{\"capabilities\":{\"max_data_xfer_size\":99999999999}}\0"sv}) {
    ServerThread other;
    std::swap(server.client, other.client);
    EXPECT_EQ(ask(Command::version, version(text)), EINVAL) << text;
    std::swap(server.client, other.client);
  }
}

TEST_F(RawClient, BytesThatAreNoMessageEndTheConnection) {
  greet();
  wire::Header bad = header(Command::device_reset);
  bad.size = 8;
  ASSERT_TRUE(server.client->send(payload(bad)));
  EXPECT_FALSE(hear());
  while (!server.look([this] { return server.ended.has_value(); })) std::this_thread::yield();
  EXPECT_EQ(server.look([this] { return server.ended->code; }), Errc::peer_violation);
}

TEST_F(RawClient, UnknownCommandsAreAnswered) {
  greet();
  EXPECT_EQ(ask(static_cast<Command>(99), {}), ENOTSUP);
  EXPECT_EQ(ask(Command::dma_read, {}), ENOTSUP);
  EXPECT_EQ(ask(Command::device_reset, {}), 0);
}

TEST_F(RawClient, ShortPayloadsAreRefused) {
  greet();
  for (const auto command :
       {Command::dma_map, Command::dma_unmap, Command::device_get_info, Command::device_get_region_info,
        Command::device_get_irq_info, Command::device_set_irqs, Command::region_read, Command::region_write}) {
    EXPECT_EQ(ask(command, Bytes(3)), EINVAL) << name_of(command);
  }
}

TEST_F(RawClient, DescriptorsWhereNoneAreDueAreRefused) {
  greet();
  const auto event = value_or_die(EventFd::make());
  const OwnedFd* const fd = &event.fd();
  EXPECT_EQ(ask(Command::device_reset, {}, std::span(&fd, 1)), EINVAL);
  const auto none = payload(wire::IrqSet{.argsz = 20,
                                         .flags = wire::kSetDataNone | wire::kSetActionTrigger,
                                         .index = wire::kMsixIndex,
                                         .start = 0,
                                         .count = 0});
  EXPECT_EQ(ask(Command::device_set_irqs, none, std::span(&fd, 1)), EINVAL);
}

TEST_F(RawClient, MemoryThatCannotBeMappedIsRefused) {
  greet();
  const auto file = value_or_die(make_memfd("guest", 0x2000));
  const OwnedFd* const fd = &file;
  const auto map = [](std::uint64_t address, std::uint64_t size, std::uint64_t offset) {
    return payload(wire::DmaMap{.argsz = 32, .flags = 3, .offset = offset, .address = address, .size = size});
  };
  EXPECT_EQ(ask(Command::dma_map, map(0x1000, 0, 0), std::span(&fd, 1)), EINVAL);
  EXPECT_EQ(ask(Command::dma_map, map(~0xfffULL, 0x2000, 0), std::span(&fd, 1)), EINVAL) << "it wraps";
  EXPECT_EQ(ask(Command::dma_map, map(0x1000, 0x2000, 0x1000), std::span(&fd, 1)), EINVAL) << "behind the file's end";
  EXPECT_EQ(ask(Command::dma_map, map(0x1000, 0x2000, 0), std::span(&fd, 1)), 0);
  EXPECT_EQ(ask(Command::dma_map, map(0x2000, 0x1000, 0), std::span(&fd, 1)), EEXIST);
  EXPECT_EQ(server.look([this] { return server.function.maps.size(); }), 1u);
}

TEST_F(RawClient, MemoryWithoutADescriptorIsNoted) {
  greet();
  const auto map = payload(wire::DmaMap{.argsz = 32, .flags = 1, .offset = 0, .address = 0x1000, .size = 0x1000});
  EXPECT_EQ(ask(Command::dma_map, map), 0);
  EXPECT_EQ(ask(Command::dma_map, map), EEXIST);
  EXPECT_TRUE(server.look([this] { return server.function.maps.empty(); }));
  const auto unmap = payload(wire::DmaUnmap{.argsz = 24, .flags = 0, .address = 0x1000, .size = 0x1000});
  EXPECT_EQ(ask(Command::dma_unmap, unmap), 0);
  EXPECT_EQ(ask(Command::dma_unmap, unmap), ENOENT);
}

TEST_F(RawClient, VectorsOutOfRangeAreRefused) {
  greet();
  const auto set = [](std::uint32_t start, std::uint32_t count) {
    return payload(wire::IrqSet{.argsz = 20,
                                .flags = wire::kSetDataEventfd | wire::kSetActionTrigger,
                                .index = wire::kMsixIndex,
                                .start = start,
                                .count = count});
  };
  EXPECT_EQ(ask(Command::device_set_irqs, set(0, 5)), EINVAL);
  EXPECT_EQ(ask(Command::device_set_irqs, set(~0U, 2)), EINVAL);
  const auto event = value_or_die(EventFd::make());
  const auto file = value_or_die(make_memfd("no-event", 8));
  std::array<const OwnedFd*, 2> fds{&event.fd(), &file};
  EXPECT_EQ(ask(Command::device_set_irqs, set(0, 1), fds), EINVAL) << "two descriptors for one vector";
  EXPECT_NE(ask(Command::device_set_irqs, set(0, 2), fds), 0) << "one is no eventfd";
  EXPECT_EQ(ask(Command::device_set_irqs, set(3, 1), std::span(fds).first(1)), 0);
  server.look([this] {
    server.function.vectors.at(3)->signal();
    return true;
  });
  EXPECT_TRUE(event.drain());
}

TEST_F(RawClient, ATriggerOfTheClientsReachesItsEventfd) {
  greet();
  const auto event = value_or_die(EventFd::make());
  const OwnedFd* const fd = &event.fd();
  wire::IrqSet set{.argsz = 20,
                   .flags = wire::kSetDataNone | wire::kSetActionTrigger,
                   .index = wire::kMsixIndex,
                   .start = 2,
                   .count = 1};
  EXPECT_EQ(ask(Command::device_set_irqs, payload(set)), EINVAL) << "MSI-X is not enabled";
  set.flags = wire::kSetDataEventfd | wire::kSetActionTrigger;
  EXPECT_EQ(ask(Command::device_set_irqs, payload(set), std::span(&fd, 1)), 0);
  set.flags = wire::kSetDataNone | wire::kSetActionTrigger;
  EXPECT_EQ(ask(Command::device_set_irqs, payload(set)), 0);
  EXPECT_TRUE(event.drain());
}

TEST_F(RawClient, ARegionReplyThatDoesNotFitSaysHowMuchItNeeds) {
  greet();
  say(Command::device_get_region_info,
      payload(wire::RegionInfo{.argsz = 32, .flags = 0, .index = 2, .cap_offset = 0, .size = 0, .offset = 0}));
  const auto reply = hear();
  ASSERT_TRUE(reply);
  const auto region = value_or_die(reply->head<wire::RegionInfo>());
  EXPECT_EQ(reply->body.size(), sizeof region);
  EXPECT_TRUE(reply->fds.empty()) << "libvfio-user's client fails when one comes";
  EXPECT_GT(region.argsz, sizeof region);
  EXPECT_EQ(region.cap_offset, 0u);
}

TEST_F(RawClient, RequestsThatComeTogetherAreAnsweredBeforeWhatIsNoMessage) {
  greet();
  Bytes bytes;
  for (std::uint16_t id = 20; id < 23; ++id) {
    wire::Header request = header(Command::device_get_info);
    request.id = id;
    append(bytes, request,
           payload(wire::DeviceInfo{.argsz = sizeof(wire::DeviceInfo), .flags = 0, .regions = 0, .irqs = 0}));
  }
  append(bytes, wire::Header{.id = 23, .command = 1, .size = 1, .flags = 0, .error = 0});
  ASSERT_TRUE(server.client->send(bytes));
  for (std::uint16_t id = 20; id < 23; ++id) {
    const auto reply = hear();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.id, id);
    EXPECT_EQ(reply->header.flags, wire::kReply);
  }
  EXPECT_FALSE(hear());
}

TEST_F(RawClient, NoReplyWhereNoneIsWanted) {
  greet();
  ASSERT_TRUE(send(*server.client, header(Command::device_reset, wire::kNoReply), {}));
  wire::Header second = header(Command::device_reset);
  second.id = 8;
  ASSERT_TRUE(send(*server.client, second, {}));
  const auto reply = hear();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.id, 8u);
}

}  // namespace
}  // namespace causeway::vfio_user::testing

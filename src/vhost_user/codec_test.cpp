#include "vhost_user/codec.h"

#include "vhost_user/test_support.h"

#include <gtest/gtest.h>

#include <sys/socket.h>

namespace causeway::vhost_user::testing {
namespace {

class Leaks : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_EQ(before_, Census::take()) << "descriptors leaked"; }
  Census before_ = Census::take();
};

std::vector<OwnedFd> eventfds(std::size_t count) {
  std::vector<OwnedFd> fds;
  for (std::size_t i = 0; i < count; ++i) fds.push_back(*EventFd::make()->fd().duplicate());
  return fds;
}

Result<FrontendMessage> decode_raw(Request request, const Bytes& body, std::vector<OwnedFd> fds = {}) {
  return decode(
      {.request = std::to_underlying(request), .need_reply = false, .size = static_cast<std::uint32_t>(body.size())},
      body, std::move(fds));
}

Result<Header> header(std::uint32_t request, std::uint32_t flags, std::uint32_t size) {
  const auto bytes = bytes_of(wire::Header{.request = request, .flags = flags, .size = size});
  return decode_header(std::span<const std::byte, kHeaderSize>(bytes));
}

TEST(HeaderCodec, ReadsRequestFlagsAndSize) {
  const auto plain = header(12, 1, 8);
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->request, 12u);
  EXPECT_FALSE(plain->need_reply);
  EXPECT_EQ(plain->size, 8u);
  EXPECT_TRUE(header(12, 9, 8)->need_reply);
}

TEST(HeaderCodec, RefusesOtherVersionsRepliesAndReservedFlags) {
  for (const std::uint32_t flags : {0u, 2u, 3u, 5u, 0x11u, 0x80000001u}) EXPECT_FALSE(header(1, flags, 0)) << flags;
}

TEST(HeaderCodec, RefusesMoreThanTheLongestMessage) {
  EXPECT_TRUE(header(1, 1, static_cast<std::uint32_t>(max_payload())));
  EXPECT_FALSE(header(1, 1, static_cast<std::uint32_t>(max_payload()) + 1));
  EXPECT_FALSE(header(5, 1, 0xffffffff));
}

TEST_F(Leaks, EveryMessageRefusesATruncatedAndAnOversizedPayload) {
  for (const MessageSpec& spec : frontend_messages()) {
    SCOPED_TRACE(spec.name);
    const auto request = static_cast<Request>(spec.id);
    EXPECT_FALSE(decode_raw(request, Bytes(spec.max_size + 1u), eventfds(1)));
    if (spec.min_size == 0) continue;
    EXPECT_FALSE(decode_raw(request, Bytes(spec.min_size - 1u), eventfds(1)));
    EXPECT_FALSE(decode_raw(request, {}));
  }
}

TEST_F(Leaks, EveryMessageRefusesTooManyDescriptors) {
  for (const MessageSpec& spec : frontend_messages()) {
    SCOPED_TRACE(spec.name);
    EXPECT_FALSE(decode_raw(static_cast<Request>(spec.id), Bytes(spec.min_size), eventfds(2)));
    EXPECT_FALSE(decode_raw(static_cast<Request>(spec.id), Bytes(spec.min_size), eventfds(253)));
  }
}

TEST_F(Leaks, AnUnknownNumberIsRefused) {
  const auto message = decode({.request = 77, .need_reply = false, .size = 0}, {}, eventfds(3));
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().code, Errc::peer_violation);
}

class SetVringKickCodec : public Leaks {};

TEST_F(SetVringKickCodec, TakesOneEventfd) {
  auto message = decode_raw(Request::set_vring_kick, bytes_of(std::uint64_t{3}), eventfds(1));
  ASSERT_TRUE(message);
  const auto& kick = std::get<SetVringKick>(*message);
  EXPECT_EQ(virtio::number(kick.queue), 3);
  EXPECT_TRUE(kick.kick.has_value());
}

TEST_F(SetVringKickCodec, WithBit8TakesNone) {
  auto message = decode_raw(Request::set_vring_kick, bytes_of(std::uint64_t{0x103}));
  ASSERT_TRUE(message);
  EXPECT_FALSE(std::get<SetVringKick>(*message).kick.has_value());
  EXPECT_FALSE(decode_raw(Request::set_vring_kick, bytes_of(std::uint64_t{0x103}), eventfds(1)));
}

TEST_F(SetVringKickCodec, RefusesTwoDescriptorsAndLeaksNone) {
  EXPECT_FALSE(decode_raw(Request::set_vring_kick, bytes_of(std::uint64_t{0}), eventfds(2)));
}

TEST_F(SetVringKickCodec, RefusesNoDescriptorWithoutBit8) {
  const auto message = decode_raw(Request::set_vring_kick, bytes_of(std::uint64_t{0}));
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().text(), "SET_VRING_KICK: 0 descriptors, takes one descriptor, or none with bit 8 set");
}

TEST_F(SetVringKickCodec, RefusesADescriptorThatIsNoEventfd) {
  std::vector<OwnedFd> fds;
  fds.push_back(*make_memfd("no eventfd", 4096));
  EXPECT_FALSE(decode_raw(Request::set_vring_kick, bytes_of(std::uint64_t{0}), std::move(fds)));
}

TEST_F(SetVringKickCodec, RefusesReservedBits) {
  EXPECT_FALSE(decode_raw(Request::set_vring_kick, bytes_of(std::uint64_t{0x200}), eventfds(1)));
}

TEST(IotlbCodec, TakesWhatHasTheBytesBehindTheTypeOrNot) {
  const wire::Iotlb sent{
      .iova = 0x1000, .size = 0x2000, .user_address = 0x3000, .access = 1, .type = wire::kIotlbUpdate, .padding = {}};
  for (const std::size_t size : {26U, 29U, 32U}) {
    Bytes body = bytes_of(sent);
    body.resize(size);
    const auto message = decode_raw(Request::iotlb_msg, body);
    ASSERT_TRUE(message) << size;
    const auto& iotlb = std::get<IotlbMsg>(*message);
    EXPECT_TRUE(iotlb.is_update);
    EXPECT_EQ(iotlb.translation.iova, memory::Iova(0x1000));
    EXPECT_EQ(iotlb.translation.size, 0x2000U);
    EXPECT_EQ(iotlb.translation.frontend_va, memory::FrontendVa(0x3000));
    EXPECT_EQ(iotlb.translation.access, memory::Access::read);
  }
}

TEST(IotlbCodec, RefusesTypesAndAccessesThatAFrontEndDoesNotSend) {
  const auto text = [](std::uint8_t type, std::uint8_t access) {
    const auto message = decode_raw(
        Request::iotlb_msg,
        bytes_of(wire::Iotlb{.iova = 0, .size = 1, .user_address = 0, .access = access, .type = type, .padding = {}}));
    return message ? std::string() : message.error().text();
  };
  EXPECT_EQ(text(wire::kIotlbInvalidate, 0), "");
  EXPECT_EQ(text(wire::kIotlbMiss, 1), "IOTLB_MSG: type 1, must be update (2) or invalidate (3)");
  EXPECT_EQ(text(4, 1), "IOTLB_MSG: type 4, must be update (2) or invalidate (3)");
  EXPECT_EQ(text(wire::kIotlbUpdate, 4), "IOTLB_MSG: access 4, must be from 0 to 3");
}

class SetMemTableCodec : public Leaks {
 protected:
  static Bytes table(std::uint32_t says, std::size_t carries) {
    Bytes bytes = bytes_of(wire::MemoryTableHead{.count = says, .padding = 0});
    for (std::size_t i = 0; i < carries; ++i) {
      const auto region = bytes_of(GuestMemory::region(i, 64));
      bytes.insert(bytes.end(), region.begin(), region.end());
    }
    return bytes;
  }
};

TEST_F(SetMemTableCodec, TakesOneDescriptorForEachRegionInOrder) {
  auto message = decode_raw(Request::set_mem_table, table(32, 32), eventfds(32));
  ASSERT_TRUE(message);
  const auto& regions = std::get<SetMemTable>(*message).regions;
  ASSERT_EQ(regions.size(), 32u);
  EXPECT_EQ(regions[5].address.guest, memory::Gpa(GuestMemory::region(5, 64).guest_address));
}

TEST_F(SetMemTableCodec, AnEmptyTableIsLegal) {
  EXPECT_TRUE(decode_raw(Request::set_mem_table, table(0, 0)));
}

TEST_F(SetMemTableCodec, RefusesACountThatContradictsPayloadOrDescriptors) {
  EXPECT_FALSE(decode_raw(Request::set_mem_table, table(2, 1), eventfds(1)));
  EXPECT_FALSE(decode_raw(Request::set_mem_table, table(2, 1), eventfds(2)));
  EXPECT_FALSE(decode_raw(Request::set_mem_table, table(1, 2), eventfds(1)));
  EXPECT_FALSE(decode_raw(Request::set_mem_table, table(1, 1), eventfds(0)));
  EXPECT_FALSE(decode_raw(Request::set_mem_table, table(0xffffffff, 1), eventfds(1)));
  EXPECT_FALSE(decode_raw(Request::set_mem_table, table(33, 33), eventfds(33)));
}

TEST_F(Leaks, RemMemRegClosesOneStrayDescriptor) {
  const auto payload = bytes_of(wire::MemoryRegion{.padding = 0, .region = GuestMemory::region()});
  EXPECT_TRUE(decode_raw(Request::rem_mem_reg, payload));
  EXPECT_TRUE(decode_raw(Request::rem_mem_reg, payload, eventfds(1)));
}

TEST_F(Leaks, SetBackendReqFdTakesAStreamSocketOnly) {
  EXPECT_FALSE(decode_raw(Request::set_backend_req_fd, {}));
  EXPECT_FALSE(decode_raw(Request::set_backend_req_fd, {}, eventfds(1)));
  int raw[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, raw), 0);
  std::vector<OwnedFd> datagram;
  datagram.push_back(OwnedFd::adopt(raw[0]));
  const auto other = OwnedFd::adopt(raw[1]);
  EXPECT_FALSE(decode_raw(Request::set_backend_req_fd, {}, std::move(datagram)));
  auto pair = *UnixSocket::make_pair();
  std::vector<OwnedFd> stream;
  stream.push_back(*pair.first.fd().duplicate());
  EXPECT_TRUE(decode_raw(Request::set_backend_req_fd, {}, std::move(stream)));
}

TEST(SetVringEnableCodec, TakesZeroAndOneOnly) {
  const auto decode_value = [](std::uint32_t value) {
    return decode_raw(Request::set_vring_enable, bytes_of(wire::VringState{.index = 1, .number = value}));
  };
  EXPECT_TRUE(decode_value(0));
  EXPECT_TRUE(decode_value(1));
  EXPECT_FALSE(decode_value(2));
}

TEST(VringKickCodec, ItsNumberMustBeZero) {
  EXPECT_TRUE(decode_raw(Request::vring_kick, bytes_of(wire::VringState{.index = 1, .number = 0})));
  EXPECT_FALSE(decode_raw(Request::vring_kick, bytes_of(wire::VringState{.index = 1, .number = 1})));
}

TEST(ConfigCodec, SizeMustBeThatOfThePayload) {
  const wire::ConfigHead head{.offset = 2, .size = 4, .flags = 0};
  EXPECT_TRUE(decode_raw(Request::get_config, bytes_of(head, std::uint32_t{0})));
  EXPECT_FALSE(decode_raw(Request::get_config, bytes_of(head)));
  EXPECT_FALSE(decode_raw(Request::get_config, bytes_of(wire::ConfigHead{.offset = 2, .size = 0, .flags = 0})));
  EXPECT_FALSE(decode_raw(Request::get_config, bytes_of(head, std::uint64_t{0})));
}

TEST(ConfigCodec, SetConfigKnowsTwoFlags) {
  const auto decode_flags = [](std::uint32_t flags) {
    return decode_raw(Request::set_config,
                      bytes_of(wire::ConfigHead{.offset = 0, .size = 4, .flags = flags}, std::uint32_t{7}));
  };
  EXPECT_FALSE(std::get<SetConfig>(*decode_flags(0)).is_migration);
  EXPECT_TRUE(std::get<SetConfig>(*decode_flags(1)).is_migration);
  EXPECT_FALSE(decode_flags(2));
}

TEST(NetSetMtuCodec, TakesTheRangeOfTheStandard) {
  for (const std::uint64_t mtu : {std::uint64_t{0}, std::uint64_t{67}, std::uint64_t{65536}, ~std::uint64_t{0}}) {
    EXPECT_FALSE(decode_raw(Request::net_set_mtu, bytes_of(mtu))) << mtu;
  }
  EXPECT_EQ(std::get<NetSetMtu>(*decode_raw(Request::net_set_mtu, bytes_of(std::uint64_t{68}))).mtu, 68);
}

TEST(SetStatusCodec, HasEightBits) {
  EXPECT_TRUE(decode_raw(Request::set_status, bytes_of(std::uint64_t{255})));
  EXPECT_FALSE(decode_raw(Request::set_status, bytes_of(std::uint64_t{256})));
}

TEST(ReplyCodec, CarriesVersionReplyFlagAndSize) {
  const auto bytes = encode_reply(24, ConfigAnswer{.offset = 1, .flags = 0, .bytes = Bytes(6)});
  const auto head = value_of<wire::Header>(bytes);
  EXPECT_EQ(head.request, 24u);
  EXPECT_EQ(head.flags, wire::kVersion | wire::kReplyFlag);
  EXPECT_EQ(head.size, 18u);
  EXPECT_EQ(bytes.size(), kHeaderSize + 18);
  EXPECT_EQ(encode_empty_reply(24).size(), kHeaderSize);
}

TEST(BackendReplyCodec, RefusesWhatIsNoReplyToTheMessage) {
  const auto reply = [](std::uint32_t request, std::uint32_t flags) {
    const auto bytes = message(request, flags, bytes_of(std::uint64_t{0}));
    return decode_backend_reply(BackendRequest::config_change_msg,
                                std::span<const std::byte, kBackendReplySize>(bytes));
  };
  EXPECT_EQ(*reply(2, 5), 0u);
  EXPECT_FALSE(reply(3, 5));
  EXPECT_FALSE(reply(2, 1));
}

}  // namespace
}  // namespace causeway::vhost_user::testing

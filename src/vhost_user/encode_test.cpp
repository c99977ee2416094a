// The codec in a front-end's direction: what it sends, a back-end takes for the same; what a back-end sends is checked.
#include "vhost_user/codec.h"
#include "vhost_user/test_support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace causeway::vhost_user::testing {
namespace {

using ::testing::HasSubstr;

constexpr QueueIndex kQueue{3};

RegionWithFile a_region() {
  return {.address = {.guest = memory::Gpa(0x1000),
                      .frontend = memory::FrontendVa(0x2000),
                      .size = 0x3000,
                      .offset = 0x4000},
          .file = *make_memfd("region", 0x7000)};
}

/// One of each message.
std::vector<FrontendMessage> one_of_each() {
  std::vector<FrontendMessage> all;
  const auto add = [&all](auto message) { all.emplace_back(std::move(message)); };
  add(GetFeatures{});
  add(SetFeatures{0x123456789});
  add(SetOwner{});
  add(ResetOwner{});
  SetMemTable table;
  table.regions.push_back(a_region());
  table.regions.push_back(a_region());
  add(std::move(table));
  add(SetLogBase{.size = 512, .offset = 64, .file = *make_memfd("log", 4096)});
  add(SetLogFd{*EventFd::make()});
  add(SetVringNum{.queue = kQueue, .entries = 256});
  add(SetVringAddr{.queue = kQueue, .log_used = false, .descriptors = 1, .available = 2, .used = 3, .log = 4});
  add(SetVringBase{.queue = kQueue, .position = 77});
  add(GetVringBase{kQueue});
  add(SetVringKick{.queue = kQueue, .kick = *KickFd::make()});
  add(SetVringCall{.queue = kQueue, .call = std::nullopt});
  add(SetVringErr{.queue = kQueue, .err = *ErrFd::make()});
  add(GetProtocolFeatures{});
  add(SetProtocolFeatures{offered_protocol_features(configured_features(true, false))});
  add(GetQueueNum{});
  add(SetVringEnable{.queue = kQueue, .enabled = true});
  add(SendRarp{{std::byte{2}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{1}}});
  add(NetSetMtu{1500});
  auto [ours, theirs] = *UnixSocket::make_pair();
  add(SetBackendReqFd{std::move(ours)});
  add(GetConfig{.offset = 4, .size = 8, .flags = 0});
  add(SetConfig{.offset = 2, .is_migration = true, .bytes = Bytes(5, std::byte{9})});
  add(ResetDevice{});
  add(VringKick{kQueue});
  add(GetMaxMemSlots{});
  add(SetDeviceStateFd{.direction = StateDirection::load, .channel = *make_memfd("channel", 4096)});
  add(CheckDeviceState{});
  add(AddMemReg{a_region()});
  add(RemMemReg{a_region().address});
  add(SetStatus{15});
  add(GetStatus{});
  const InflightDescription inflight{.size = 4096, .offset = 64, .queues = 2, .entries = 128};
  add(GetInflightFd{.wanted = inflight, .payload_size = 24});
  add(SetInflightFd{.region = inflight, .file = *make_memfd("inflight", 8192)});
  add(GetVringBaseSkipDrain{kQueue});
  add(PostcopyAdvise{});
  add(PostcopyListen{});
  add(PostcopyEnd{});
  add(IotlbMsg{.is_update = true,
               .translation = {.iova = memory::Iova(0x1000),
                               .size = 0x2000,
                               .frontend_va = memory::FrontendVa(0x3000),
                               .access = memory::Access::write}});
  return all;
}

Result<FrontendMessage> as_received(const Outgoing& out) {
  std::vector<OwnedFd> fds;
  for (const OwnedFd* fd : out.fds) fds.push_back(*fd->duplicate());
  const std::span<const std::byte> bytes(out.bytes);
  CW_TRY(const auto header, decode_header(bytes.first<kHeaderSize>()));
  EXPECT_EQ(header.size, bytes.size() - kHeaderSize);
  return decode(header, bytes.subspan(kHeaderSize), std::move(fds));
}

TEST(Encode, EveryMessageIsReceivedAsItWasSent) {
  std::set<std::size_t> kinds;
  for (const FrontendMessage& message : one_of_each()) {
    const Outgoing out = encode(message, false);
    const auto received = as_received(out);
    const auto name = name_of_request(value_of<wire::Header>(out.bytes).request);
    ASSERT_TRUE(received) << received.error().text();
    EXPECT_EQ(received->index(), message.index()) << name;
    const Outgoing again = encode(*received, false);
    EXPECT_EQ(again.bytes, out.bytes) << name;
    EXPECT_EQ(again.fds.size(), out.fds.size()) << name;
    kinds.insert(message.index());
  }
  EXPECT_EQ(kinds.size(), std::variant_size_v<FrontendMessage>) << "a message has no sample";
}

TEST(Encode, AsksForAReplyWhenTold) {
  for (const FrontendMessage& message : one_of_each()) {
    EXPECT_EQ(value_of<wire::Header>(encode(message, true).bytes).flags, wire::kVersion | wire::kNeedReplyFlag);
  }
}

Result<BackendMessage> from_backend(std::uint32_t request, const Bytes& body, const ReplyFiles& files = {}) {
  return decode_backend_message(
      {.request = request, .need_reply = false, .size = static_cast<std::uint32_t>(body.size())}, body, files);
}
ReplyFiles files_of(std::size_t count) {
  return {.count = count, .first = std::make_shared<const OwnedFd>(*make_memfd("test", kPage))};
}

TEST(BackendMessages, AreReceivedAsTheyWereSent) {
  EXPECT_EQ(*from_backend(2, {}), (BackendMessage{.request = BackendRequest::config_change_msg}));
  const BackendMessage call{.request = BackendRequest::vring_call, .queue = kQueue};
  const Bytes bytes = encode(call, false).bytes;
  EXPECT_EQ(*from_backend(4, Bytes(bytes.begin() + kHeaderSize, bytes.end())), call);
}

TEST(BackendMessages, AMissNamesItsPageAndWhatWasToBeDone) {
  const memory::Miss miss{.at = memory::Iova(0x5000), .access = memory::Access::write};
  const Outgoing out = encode({.request = BackendRequest::iotlb_msg, .miss = miss}, false);
  ASSERT_EQ(out.bytes.size(), kHeaderSize + sizeof(wire::Iotlb));
  const auto body = std::span(out.bytes).subspan(kHeaderSize);
  const auto iotlb = value_of<wire::Iotlb>(body);
  EXPECT_EQ(iotlb.iova, 0x5000U);
  EXPECT_EQ(iotlb.size, 4096U);
  EXPECT_EQ(iotlb.user_address, 0U);
  EXPECT_EQ(iotlb.access, 2U);
  EXPECT_EQ(iotlb.type, wire::kIotlbMiss);
  EXPECT_EQ(iotlb.padding, decltype(iotlb.padding){});
  // Our own driver side has no IOMMU.
  EXPECT_FALSE(from_backend(1, Bytes(body.begin(), body.end())));
}

TEST(BackendMessages, CarryADoorbellOrTakeItBack) {
  const ReplyFiles files = files_of(1);
  const BackendMessage offer{.request = BackendRequest::vring_host_notifier_msg,
                             .queue = kQueue,
                             .area = DoorbellArea{.fd = files.first, .offset = 2 * kPage, .size = kPage}};
  const BackendMessage withdrawal{.request = BackendRequest::vring_host_notifier_msg, .queue = kQueue};
  for (const auto& [message, with] : {std::pair(offer, files), std::pair(withdrawal, ReplyFiles())}) {
    const Outgoing out = encode(message, true);
    EXPECT_EQ(out.fds.size(), with.count);
    EXPECT_EQ(*from_backend(3, Bytes(out.bytes.begin() + kHeaderSize, out.bytes.end()), with), message);
  }
}

TEST(BackendMessages, ADoorbellThatMakesNoSenseIsRefusedAndNoMore) {
  const auto decode_area = [](std::uint64_t queue, std::size_t fds) {
    const auto message =
        from_backend(3, bytes_of(wire::VringArea{.queue = queue, .size = kPage, .offset = 0}), files_of(fds));
    return message ? Errc() : message.error().code;
  };
  EXPECT_EQ(decode_area(0, 1), Errc());
  EXPECT_EQ(decode_area(0x100, 0), Errc());
  EXPECT_EQ(decode_area(0, 0), Errc::invalid_value);
  EXPECT_EQ(decode_area(0, 2), Errc::invalid_value);
  EXPECT_EQ(decode_area(0x100, 1), Errc::invalid_value);
  EXPECT_EQ(decode_area(0x200, 1), Errc::invalid_value);
  EXPECT_EQ(from_backend(3, bytes_of(1U)).error().code, Errc::peer_violation);
}

constexpr auto kGroupNumber = std::to_underlying(BackendRequest::vring_vfio_group_msg);

TEST(BackendMessages, CarryAVfioGroupOrTakeItBack) {
  const ReplyFiles files = files_of(1);
  const BackendMessage offer{
      .request = BackendRequest::vring_vfio_group_msg, .queue = QueueIndex{255}, .group = files.first};
  const BackendMessage withdrawal{.request = BackendRequest::vring_vfio_group_msg, .queue = kQueue};
  for (const auto& [message, with] : {std::pair(offer, files), std::pair(withdrawal, ReplyFiles())}) {
    const Outgoing out = encode(message, true);
    EXPECT_EQ(out.bytes.size(), kHeaderSize + 8);
    EXPECT_EQ(out.fds.size(), with.count);
    EXPECT_EQ(*from_backend(kGroupNumber, Bytes(out.bytes.begin() + kHeaderSize, out.bytes.end()), with), message);
  }
}

TEST(BackendMessages, AVfioGroupThatMakesNoSenseIsRefusedAndNoMore) {
  const auto refusal = [](std::uint32_t queue, std::uint32_t flags, std::size_t fds) {
    const auto message =
        from_backend(kGroupNumber, bytes_of(wire::VringGroup{.queue = queue, .flags = flags}), files_of(fds));
    if (message) return std::string();
    EXPECT_EQ(message.error().code, Errc::invalid_value);
    return message.error().text();
  };
  EXPECT_EQ(refusal(0, 1, 1), "");
  EXPECT_EQ(refusal(0, 0, 0), "");
  EXPECT_EQ(refusal(3, 1, 0), "VRING_VFIO_GROUP_MSG: queue 3: 0 descriptors, takes 1");
  EXPECT_EQ(refusal(3, 1, 2), "VRING_VFIO_GROUP_MSG: queue 3: 2 descriptors, takes 1");
  EXPECT_EQ(refusal(3, 0, 1), "VRING_VFIO_GROUP_MSG: queue 3: 1 descriptors, takes 0");
  EXPECT_EQ(refusal(3, 3, 1), "VRING_VFIO_GROUP_MSG: queue 3: flags 0x3, all but 0x1 are reserved");
  EXPECT_EQ(refusal(256, 1, 1), "VRING_VFIO_GROUP_MSG: queue 256");
  EXPECT_EQ(from_backend(kGroupNumber, bytes_of(1ULL, 1U), files_of(1)).error().code, Errc::peer_violation);
}

TEST(BackendMessages, AreRefusedByName) {
  EXPECT_THAT(from_backend(77, {}).error().text(), HasSubstr("back-end message 77: does not exist"));
  EXPECT_THAT(from_backend(2, bytes_of(1U)).error().text(), HasSubstr("CONFIG_CHANGE_MSG: a payload of 4 bytes"));
  EXPECT_THAT(from_backend(2, {}, files_of(1)).error().text(), HasSubstr("CONFIG_CHANGE_MSG: 1 descriptors"));
  EXPECT_THAT(from_backend(4, bytes_of(wire::VringState{.index = 256, .number = 0})).error().text(),
              HasSubstr("VRING_CALL: queue 256"));
  EXPECT_EQ(from_backend(9, Bytes(40)).error().code, Errc::not_supported);
}

}  // namespace
}  // namespace causeway::vhost_user::testing

// The decoding half of the codec: the rules of the table first, then one small parse function a message.
#include "vhost_user/codec.h"
#include "vhost_user/message_rules.h"
#include "vhost_user/wire.h"

#include <fmt/format.h>

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

namespace causeway::vhost_user {
namespace {

/// Payload and descriptors of a message whose size and number of descriptors agree with the table.
struct Body {
  std::span<const std::byte> bytes;
  std::vector<OwnedFd> fds;

  template <class T>
  T read(std::size_t offset = 0) const {
    T value;
    std::memcpy(&value, bytes.subspan(offset, sizeof value).data(), sizeof value);
    return value;
  }
};

template <class Message>
struct As {};

Failure violation(std::string text) {
  return fail(Errc::peer_violation, std::move(text));
}

// --- Values ---------------------------------------------------------------------------------------------------------

Result<QueueIndex> queue_index(std::uint32_t index) {
  if (index < kMaxQueues) return QueueIndex{static_cast<std::uint16_t>(index)};
  return violation(fmt::format("queue {}, the highest possible is {}", index, kMaxQueues - 1));
}

RegionAddress region_address(const wire::Region& region) {
  return {.guest = memory::Gpa(region.guest_address),
          .frontend = memory::FrontendVa(region.user_address),
          .size = region.size,
          .offset = region.mmap_offset};
}

/// Queue and optional eventfd of SET_VRING_KICK and its like.
template <class Event>
Result<std::pair<QueueIndex, std::optional<Event>>> queue_and_event(Body& body) {
  const auto value = body.read<std::uint64_t>();
  if ((value & ~(wire::kVringFdIndexMask | wire::kVringFdNone)) != 0) {
    return violation(fmt::format("value {:#x}, bits above 8 are reserved", value));
  }
  const QueueIndex queue{static_cast<std::uint16_t>(value & wire::kVringFdIndexMask)};
  if (body.fds.empty()) return std::pair(queue, std::optional<Event>());
  auto event = EventFd::adopt(std::move(body.fds.front()));
  if (!event) return fail(std::move(event).error().context(fmt::format("queue {}", virtio::number(queue))));
  return std::pair(queue, std::optional(Event(std::move(*event))));
}

Result<void> check_stream_socket(const OwnedFd& fd) {
  int domain = 0;
  int type = 0;
  socklen_t size = sizeof domain;
  if (::getsockopt(fd.borrow(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 || domain != AF_UNIX ||
      ::getsockopt(fd.borrow(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) {
    return violation("descriptor is no unix stream socket");
  }
  return {};
}

Result<wire::ConfigHead> config_head(const Body& body) {
  const auto head = body.read<wire::ConfigHead>();
  const std::size_t room = body.bytes.size() - sizeof head;
  if (head.size == room) return head;
  return violation(fmt::format("says {} bytes of configuration, carries {}", head.size, room));
}

// --- One parse function a message -----------------------------------------------------------------------------------

template <Request kNumber>
Result<Bare<kNumber>> parse(Body&, As<Bare<kNumber>>) {
  return Bare<kNumber>{};
}

Result<SetFeatures> parse(Body& body, As<SetFeatures>) {
  return SetFeatures{body.read<std::uint64_t>()};
}

Result<SetProtocolFeatures> parse(Body& body, As<SetProtocolFeatures>) {
  return SetProtocolFeatures{ProtocolFeatures(body.read<std::uint64_t>())};
}

Result<SetMemTable> parse(Body& body, As<SetMemTable>) {
  const std::size_t count = body.fds.size();  // equal to the count in the payload: checked with the descriptors
  const std::size_t due = sizeof(wire::MemoryTableHead) + count * sizeof(wire::Region);
  if (body.bytes.size() != due) {
    return violation(fmt::format("{} regions in {} bytes, must be {} bytes", count, body.bytes.size(), due));
  }
  SetMemTable message;
  for (std::size_t i = 0; i < count; ++i) {
    const auto region = body.read<wire::Region>(sizeof(wire::MemoryTableHead) + i * sizeof(wire::Region));
    message.regions.push_back({.address = region_address(region), .file = std::move(body.fds[i])});
  }
  return message;
}

Result<AddMemReg> parse(Body& body, As<AddMemReg>) {
  return AddMemReg{
      {.address = region_address(body.read<wire::MemoryRegion>().region), .file = std::move(body.fds.front())}};
}

Result<RemMemReg> parse(Body& body, As<RemMemReg>) {
  return RemMemReg{region_address(body.read<wire::MemoryRegion>().region)};
}

Result<SetLogBase> parse(Body& body, As<SetLogBase>) {
  return SetLogBase{
      .size = body.read<std::uint64_t>(0), .offset = body.read<std::uint64_t>(8), .file = std::move(body.fds.front())};
}

Result<IotlbMsg> parse(Body& body, As<IotlbMsg>) {
  wire::Iotlb iotlb{};
  std::memcpy(&iotlb, body.bytes.data(), std::min(body.bytes.size(), sizeof iotlb));
  if (iotlb.type != wire::kIotlbUpdate && iotlb.type != wire::kIotlbInvalidate) {
    return violation(fmt::format("type {}, must be update ({}) or invalidate ({})", iotlb.type, wire::kIotlbUpdate,
                                 wire::kIotlbInvalidate));
  }
  if (iotlb.access > std::to_underlying(memory::Access::read_write)) {
    return violation(fmt::format("access {}, must be from 0 to 3", iotlb.access));
  }
  return IotlbMsg{.is_update = iotlb.type == wire::kIotlbUpdate,
                  .translation = {.iova = memory::Iova(iotlb.iova),
                                  .size = iotlb.size,
                                  .frontend_va = memory::FrontendVa(iotlb.user_address),
                                  .access = static_cast<memory::Access>(iotlb.access)}};
}

Result<SetLogFd> parse(Body& body, As<SetLogFd>) {
  if (body.fds.empty()) return SetLogFd{};
  CW_TRY(auto event, EventFd::adopt(std::move(body.fds.front())));
  return SetLogFd{std::move(event)};
}

Result<SetVringNum> parse(Body& body, As<SetVringNum>) {
  const auto state = body.read<wire::VringState>();
  CW_TRY(const auto queue, queue_index(state.index));
  return SetVringNum{.queue = queue, .entries = state.number};
}

Result<SetVringAddr> parse(Body& body, As<SetVringAddr>) {
  const auto address = body.read<wire::VringAddr>();
  CW_TRY(const auto queue, queue_index(address.index));
  if ((address.flags & ~wire::kVringAddrLog) != 0) {
    return violation(fmt::format("queue {}: flags {:#x}, only bit 0 is defined", address.index, address.flags));
  }
  return SetVringAddr{.queue = queue,
                      .log_used = (address.flags & wire::kVringAddrLog) != 0,
                      .descriptors = address.descriptors,
                      .available = address.available,
                      .used = address.used,
                      .log = address.log};
}

Result<SetVringBase> parse(Body& body, As<SetVringBase>) {
  const auto state = body.read<wire::VringState>();
  CW_TRY(const auto queue, queue_index(state.index));
  return SetVringBase{.queue = queue, .position = state.number};
}

Result<GetVringBase> parse(Body& body, As<GetVringBase>) {
  CW_TRY(const auto queue, queue_index(body.read<wire::VringState>().index));
  return GetVringBase{queue};
}

Result<SetVringKick> parse(Body& body, As<SetVringKick>) {
  CW_TRY(auto pair, queue_and_event<KickFd>(body));
  return SetVringKick{.queue = pair.first, .kick = std::move(pair.second)};
}

Result<SetVringCall> parse(Body& body, As<SetVringCall>) {
  CW_TRY(auto pair, queue_and_event<CallFd>(body));
  return SetVringCall{.queue = pair.first, .call = std::move(pair.second)};
}

Result<SetVringErr> parse(Body& body, As<SetVringErr>) {
  CW_TRY(auto pair, queue_and_event<ErrFd>(body));
  return SetVringErr{.queue = pair.first, .err = std::move(pair.second)};
}

Result<SetVringEnable> parse(Body& body, As<SetVringEnable>) {
  const auto state = body.read<wire::VringState>();
  CW_TRY(const auto queue, queue_index(state.index));
  if (state.number > 1) return violation(fmt::format("queue {}: value {}, must be 0 or 1", state.index, state.number));
  return SetVringEnable{.queue = queue, .enabled = state.number == 1};
}

Result<VringKick> parse(Body& body, As<VringKick>) {
  const auto state = body.read<wire::VringState>();
  CW_TRY(const auto queue, queue_index(state.index));
  if (state.number != 0) return violation(fmt::format("queue {}: value {}, must be 0", state.index, state.number));
  return VringKick{queue};
}

Result<SendRarp> parse(Body& body, As<SendRarp>) {
  return SendRarp{body.read<std::array<std::byte, 6>>()};
}

Result<NetSetMtu> parse(Body& body, As<NetSetMtu>) {
  const auto mtu = body.read<std::uint64_t>();
  // Spec: virtio 1.3 section 5.1.4, the range of a network device's MTU.
  if (mtu < 68 || mtu > 65535) return violation(fmt::format("an MTU of {}, must be 68 to 65535", mtu));
  return NetSetMtu{static_cast<std::uint16_t>(mtu)};
}

Result<SetBackendReqFd> parse(Body& body, As<SetBackendReqFd>) {
  CW_CHECK(check_stream_socket(body.fds.front()));
  CW_TRY(auto channel, UnixSocket::adopt(std::move(body.fds.front())));
  return SetBackendReqFd{std::move(channel)};
}

Result<GetConfig> parse(Body& body, As<GetConfig>) {
  CW_TRY(const auto head, config_head(body));
  return GetConfig{.offset = head.offset, .size = head.size, .flags = head.flags};
}

Result<SetConfig> parse(Body& body, As<SetConfig>) {
  CW_TRY(const auto head, config_head(body));
  if (head.flags != wire::kConfigWritable && head.flags != wire::kConfigMigration) {
    return violation(fmt::format("flags {:#x}, must be 0 (guest wrote) or 1 (live migration)", head.flags));
  }
  const auto bytes = body.bytes.subspan(sizeof head);
  return SetConfig{.offset = head.offset,
                   .is_migration = head.flags == wire::kConfigMigration,
                   .bytes = Bytes(bytes.begin(), bytes.end())};
}

InflightDescription inflight_description(const Body& body) {
  return {.size = body.read<std::uint64_t>(0),
          .offset = body.read<std::uint64_t>(8),
          .queues = body.read<std::uint16_t>(16),
          .entries = body.read<std::uint16_t>(18)};
}

Result<GetInflightFd> parse(Body& body, As<GetInflightFd>) {
  return GetInflightFd{.wanted = inflight_description(body), .payload_size = body.bytes.size()};
}

Result<SetInflightFd> parse(Body& body, As<SetInflightFd>) {
  return SetInflightFd{.region = inflight_description(body), .file = std::move(body.fds.front())};
}

Result<GetVringBaseSkipDrain> parse(Body& body, As<GetVringBaseSkipDrain>) {
  CW_TRY(const auto queue, queue_index(body.read<wire::VringState>().index));
  return GetVringBaseSkipDrain{queue};
}

Result<SetDeviceStateFd> parse(Body& body, As<SetDeviceStateFd>) {
  const auto transfer = body.read<wire::DeviceStateTransfer>();
  if (transfer.phase != wire::kStateStopped) {
    return violation(fmt::format("phase {}, there is only 0 (all rings stopped)", transfer.phase));
  }
  if (transfer.direction != wire::kStateSave && transfer.direction != wire::kStateLoad) {
    return violation(fmt::format("direction {}, must be 0 (save) or 1 (load)", transfer.direction));
  }
  return SetDeviceStateFd{
      .direction = transfer.direction == wire::kStateSave ? StateDirection::save : StateDirection::load,
      .channel = std::move(body.fds.front())};
}

Result<SetStatus> parse(Body& body, As<SetStatus>) {
  const auto status = body.read<std::uint64_t>();
  if (status > 0xff) return violation(fmt::format("status {:#x}, has 8 bits", status));
  return SetStatus{static_cast<std::uint8_t>(status)};
}

// --- Dispatch: the alternatives of FrontendMessage are the list of what we handle
// -------------------------------------

using Parse = Result<FrontendMessage> (*)(Body&);
using Parsers = std::array<Parse, 46>;

template <class Message>
Result<FrontendMessage> parse_as(Body& body) {
  auto message = parse(body, As<Message>{});
  if (!message) return fail(std::move(message).error());
  return FrontendMessage(std::move(*message));
}

template <class... Messages>
constexpr Parsers make_parsers(std::type_identity<std::variant<Messages...>>) {
  Parsers parsers{};
  ((parsers[std::to_underlying(Messages::kRequest)] = &parse_as<Messages>), ...);
  return parsers;
}
constexpr Parsers kParsers = make_parsers(std::type_identity<FrontendMessage>{});

// NOLINTNEXTLINE(performance-unnecessary-value-param): it owns the descriptors, which end here whatever happens
Result<FrontendMessage> decode_known(const MessageSpec& spec, Body body) {
  CW_CHECK(check_rules(spec, body.bytes, body.fds.size()));
  return kParsers[spec.id](body);
}

}  // namespace

Result<FrontendMessage> decode(const Header& header, std::span<const std::byte> body, std::vector<OwnedFd> fds) {
  const MessageSpec* spec = find_frontend_message(header.request);
  if (spec == nullptr) {
    return violation(
        fmt::format("message {} does not exist, the highest is {}", header.request, frontend_messages().size()));
  }
  auto message = decode_known(*spec, Body{.bytes = body, .fds = std::move(fds)});
  if (!message) return fail(std::move(message).error().context(spec->name));
  return message;
}

}  // namespace causeway::vhost_user

#include "vhost_user/codec.h"

#include "vhost_user/frame.h"
#include "vhost_user/wire.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

namespace causeway::vhost_user {
namespace {

std::string name_in(HeaderOf due, std::uint32_t request) {
  return due == HeaderOf::backend_message ? name_of_backend_request(request) : name_of_request(request);
}

}  // namespace

Result<Header> decode_header(std::span<const std::byte, kHeaderSize> bytes, HeaderOf due) {
  wire::Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto name = name_in(due, header.request);
  const std::uint32_t known = wire::kVersionMask | wire::kReplyFlag | wire::kNeedReplyFlag;
  if ((header.flags & wire::kVersionMask) != wire::kVersion) {
    return fail(Errc::peer_violation, fmt::format("{}: header version {}, only {} exists", name,
                                                  header.flags & wire::kVersionMask, wire::kVersion));
  }
  const bool is_reply = (header.flags & wire::kReplyFlag) != 0;
  if (is_reply != (due == HeaderOf::reply)) {
    return fail(Errc::peer_violation,
                fmt::format("{}: a {} is due", name, is_reply ? "reply, where a request" : "request, where a reply"));
  }
  if ((header.flags & ~known) != 0) {
    return fail(Errc::peer_violation, fmt::format("{}: header flags {:#x} are reserved", name, header.flags & ~known));
  }
  if (header.size > max_payload()) {
    return fail(Errc::peer_violation,
                fmt::format("{}: a payload of {} bytes, the longest message has {}", name, header.size, max_payload()));
  }
  return Header{
      .request = header.request, .need_reply = (header.flags & wire::kNeedReplyFlag) != 0, .size = header.size};
}

Bytes encode_reply(std::uint32_t request, const Answer& answer) {
  struct Encoder {
    std::uint32_t request;
    Bytes operator()(const Done&) const { return (*this)(U64Answer{0}); }
    Bytes operator()(const U64Answer& u64) const { return frame_with(request, wire::kReplyFlag, u64.value); }
    Bytes operator()(const VringBaseAnswer& base) const {
      return frame_with(request, wire::kReplyFlag,
                        wire::VringState{.index = virtio::number(base.queue), .number = base.position});
    }
    Bytes operator()(const ConfigAnswer& config) const {
      Bytes bytes = frame(request, wire::kReplyFlag, sizeof(wire::ConfigHead) + config.bytes.size());
      append(bytes, wire::ConfigHead{.offset = config.offset,
                                     .size = static_cast<std::uint32_t>(config.bytes.size()),
                                     .flags = config.flags});
      bytes.insert(bytes.end(), config.bytes.begin(), config.bytes.end());
      return bytes;
    }
    Bytes operator()(const InflightAnswer& inflight) const {
      Bytes bytes = frame(request, wire::kReplyFlag, inflight.payload_size);
      append_inflight(bytes, inflight.region, inflight.payload_size);
      return bytes;
    }
    Bytes operator()(const DescriptorAnswer&) const { return frame(request, wire::kReplyFlag, 0); }
    Bytes operator()(const MemTableAnswer& table) const { return mem_table(request, wire::kReplyFlag, table.regions); }
  };
  return std::visit(Encoder{request}, answer);
}

Bytes encode_failure(std::uint32_t request) {
  return encode_reply(request, U64Answer{1});
}

Bytes encode_empty_reply(std::uint32_t request) {
  return frame(request, wire::kReplyFlag, 0);
}

Bytes encode_backend_reply(std::uint32_t request, std::uint64_t value) {
  return encode_reply(request, U64Answer{value});
}

Outgoing encode(const BackendMessage& message, bool need_reply) {
  const auto request = std::to_underlying(message.request);
  const std::uint32_t flags = need_reply_flag(need_reply);
  const std::uint32_t queue = virtio::number(message.queue);
  switch (message.request) {
    case BackendRequest::config_change_msg:
      return {.bytes = frame(request, flags, 0), .fds = {}};
    case BackendRequest::vring_host_notifier_msg:
      if (!message.area) {
        return {.bytes = frame_with(request, flags,
                                    wire::VringArea{.queue = queue | wire::kVringFdNone, .size = 0, .offset = 0}),
                .fds = {}};
      }
      return {.bytes = frame_with(
                  request, flags,
                  wire::VringArea{.queue = queue, .size = message.area->size, .offset = message.area->offset}),
              .fds = {message.area->fd.get()}};
    case BackendRequest::vring_vfio_group_msg: {
      Outgoing out{
          .bytes = frame_with(request, flags,
                              wire::VringGroup{.queue = queue, .flags = message.group ? wire::kVringGroupComes : 0}),
          .fds = {}};
      if (message.group) out.fds.push_back(message.group.get());
      return out;
    }
    case BackendRequest::iotlb_msg:
      return {.bytes = frame_with(request, flags,
                                  wire::Iotlb{.iova = message.miss->at.value(),
                                              .size = memory::MemoryMap::kIommuPage,
                                              .user_address = 0,
                                              .access = std::to_underlying(message.miss->access),
                                              .type = wire::kIotlbMiss,
                                              .padding = {}}),
              .fds = {}};
    default:
      return {.bytes = frame_with(request, flags, wire::VringState{.index = queue, .number = 0}), .fds = {}};
  }
}

Result<std::uint64_t> decode_backend_reply(BackendRequest request,
                                           std::span<const std::byte, kBackendReplySize> bytes) {
  wire::Header header;
  std::uint64_t value = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  std::memcpy(&value, bytes.subspan<kHeaderSize>().data(), sizeof value);
  if (header.request != std::to_underlying(request) || (header.flags & wire::kReplyFlag) == 0 ||
      header.size != sizeof value) {
    return fail(Errc::peer_violation,
                fmt::format("{}: answered by number {}, flags {:#x}, {} bytes, where an 8-byte reply is due",
                            spec_of(request).name, header.request, header.flags, header.size));
  }
  return value;
}

}  // namespace causeway::vhost_user

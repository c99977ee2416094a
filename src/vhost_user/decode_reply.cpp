// What a back-end says, decoded: its replies, and its own messages.
#include "vhost_user/codec.h"
#include "vhost_user/wire.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

namespace causeway::vhost_user {
namespace {

Failure violation(std::string_view name, std::string_view text) {
  return fail(Errc::peer_violation, fmt::format("{}: {}", name, text));
}

template <class T>
T read(std::span<const std::byte> body) {
  T value;
  std::memcpy(&value, body.first(sizeof value).data(), sizeof value);
  return value;
}

Result<Answer> config_answer(std::string_view name, std::span<const std::byte> body) {
  if (body.empty()) return Answer(Done{});
  if (body.size() < sizeof(wire::ConfigHead)) {
    return violation(name,
                     fmt::format("a reply of {} bytes, the head alone has {}", body.size(), sizeof(wire::ConfigHead)));
  }
  const auto head = read<wire::ConfigHead>(body);
  const auto bytes = body.subspan(sizeof head);
  if (head.size == 0) return Answer(Done{});
  if (head.size != bytes.size()) {
    return violation(name, fmt::format("the reply says {} bytes, carries {}", head.size, bytes.size()));
  }
  return Answer(ConfigAnswer{.offset = head.offset, .flags = head.flags, .bytes = Bytes(bytes.begin(), bytes.end())});
}

Result<Answer> inflight_answer(const MessageSpec& spec, std::span<const std::byte> body, const ReplyFiles& files) {
  if (body.size() < spec.min_size || body.size() > spec.max_size) {
    return violation(spec.name,
                     fmt::format("a reply of {} bytes, must be {} to {}", body.size(), spec.min_size, spec.max_size));
  }
  const InflightDescription region{.size = read<std::uint64_t>(body),
                                   .offset = read<std::uint64_t>(body.subspan(8)),
                                   .queues = read<std::uint16_t>(body.subspan(16)),
                                   .entries = read<std::uint16_t>(body.subspan(18))};
  return Answer(InflightAnswer{.region = region, .payload_size = body.size(), .file = files.first});
}

Result<void> check_reply_size(std::string_view name, std::size_t due, std::size_t size) {
  if (due == size) return {};
  return violation(name, fmt::format("a reply of {} bytes, must be {}", size, due));
}

/// Here a violation harms nobody: the front-end says no, and the queue is kicked by its eventfd.
Result<BackendMessage> host_notifier(std::string_view name, std::span<const std::byte> body, const ReplyFiles& files) {
  const auto area = read<wire::VringArea>(body);
  if ((area.queue & ~(wire::kVringFdIndexMask | wire::kVringFdNone)) != 0) {
    return fail(Errc::invalid_value, fmt::format("{}: value {:#x}, bits above 8 are reserved", name, area.queue));
  }
  const std::size_t due = (area.queue & wire::kVringFdNone) != 0 ? 0 : 1;
  if (files.count != due || (due == 1 && !files.first)) {
    return fail(Errc::invalid_value, fmt::format("{}: {} descriptors, takes {}", name, files.count, due));
  }
  BackendMessage message{.request = BackendRequest::vring_host_notifier_msg,
                         .queue = QueueIndex{static_cast<std::uint16_t>(area.queue & wire::kVringFdIndexMask)}};
  if (due == 1) message.area = DoorbellArea{.fd = files.first, .offset = area.offset, .size = area.size};
  return message;
}

/// Here too: the front-end says no, and the queue's interrupts go on coming by eventfd.
Result<BackendMessage> vfio_group(std::string_view name, std::span<const std::byte> body, const ReplyFiles& files) {
  const auto group = read<wire::VringGroup>(body);
  if (group.queue >= kMaxQueues) return fail(Errc::invalid_value, fmt::format("{}: queue {}", name, group.queue));
  if ((group.flags & ~wire::kVringGroupComes) != 0) {
    return fail(Errc::invalid_value,
                fmt::format("{}: queue {}: flags {:#x}, all but 0x1 are reserved", name, group.queue, group.flags));
  }
  const std::size_t due = (group.flags & wire::kVringGroupComes) != 0 ? 1 : 0;
  if (files.count != due || (due == 1 && !files.first)) {
    return fail(Errc::invalid_value,
                fmt::format("{}: queue {}: {} descriptors, takes {}", name, group.queue, files.count, due));
  }
  return BackendMessage{.request = BackendRequest::vring_vfio_group_msg,
                        .queue = QueueIndex{static_cast<std::uint16_t>(group.queue)},
                        .group = due == 1 ? files.first : nullptr};
}

}  // namespace

Result<Answer> decode_reply(Request request, const Header& header, std::span<const std::byte> body,
                            const ReplyFiles& files) {
  const MessageSpec& spec = spec_of(request);
  if (header.request != spec.id) {
    return violation(spec.name, fmt::format("answered by a reply to {}", name_of_request(header.request)));
  }
  const std::size_t most = spec.reply == Reply::inflight ? 1 : 0;
  if (files.count > most) {
    return violation(spec.name,
                     fmt::format("a reply with {} descriptors, takes {}", files.count, most == 0 ? "none" : "one"));
  }
  switch (spec.reply) {
    case Reply::ack_if_asked:
    case Reply::u64_value:
    case Reply::u64_status:
    case Reply::u64_channel:
      CW_CHECK(check_reply_size(spec.name, sizeof(std::uint64_t), body.size()));
      return Answer(U64Answer{read<std::uint64_t>(body)});
    case Reply::vring_state: {
      CW_CHECK(check_reply_size(spec.name, sizeof(wire::VringState), body.size()));
      const auto state = read<wire::VringState>(body);
      if (state.index >= kMaxQueues) return violation(spec.name, fmt::format("a reply for queue {}", state.index));
      return Answer(
          VringBaseAnswer{.queue = QueueIndex{static_cast<std::uint16_t>(state.index)}, .position = state.number});
    }
    case Reply::config:
      return config_answer(spec.name, body);
    case Reply::inflight:
      return inflight_answer(spec, body, files);
    case Reply::descriptor:
    case Reply::other:
      break;
  }
  return fail(Errc::not_supported, fmt::format("{}: its reply is not understood", spec.name));
}

Result<BackendMessage> decode_backend_message(const Header& header, std::span<const std::byte> body,
                                              const ReplyFiles& files) {
  const auto name = name_of_backend_request(header.request);
  const MessageSpec* spec = find_backend_message(header.request);
  if (spec == nullptr) return violation(name, "does not exist");
  // Our own driver side has no IOMMU before its back-ends.
  if (spec->support != Support::handled || spec->payload == Payload::iotlb)
    return fail(Errc::not_supported, fmt::format("{}: not handled", name));
  if (body.size() < spec->min_size || body.size() > spec->max_size) {
    return violation(name, fmt::format("a payload of {} bytes, must be {}", body.size(), spec->min_size));
  }
  if (spec->payload == Payload::vring_area) return host_notifier(name, body, files);
  if (spec->payload == Payload::vring_group) return vfio_group(name, body, files);
  if (files.count != 0) return violation(name, fmt::format("{} descriptors, takes none", files.count));
  BackendMessage message{.request = static_cast<BackendRequest>(header.request)};
  if (spec->payload != Payload::vring_state) return message;
  const auto state = read<wire::VringState>(body);
  if (state.index >= kMaxQueues) return violation(name, fmt::format("queue {}", state.index));
  message.queue = QueueIndex{static_cast<std::uint16_t>(state.index)};
  return message;
}

}  // namespace causeway::vhost_user

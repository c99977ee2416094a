// Bytes and descriptors to typed messages, and answers back to bytes. Pure: no state, no system call but the look at
// what kind of descriptor came. Descriptors are owned from the call on, so that every early return closes them. Spec:
// QEMU docs/interop/vhost-user.rst, "Message Specification".
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"
#include "vhost_user/messages.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace causeway::vhost_user {

inline constexpr std::size_t kHeaderSize = 12;
using Bytes = std::vector<std::byte>;

/// A header whose frame can be trusted: `size` bytes of payload follow. The number may still be one that no message
/// has.
struct Header {
  std::uint32_t request;
  bool need_reply;
  std::uint32_t size;
};

/// What a header must be the header of. The numbers of the two kinds of requests mean different messages.
enum class HeaderOf : std::uint8_t { frontend_message, reply, backend_message };

/// Errc::peer_violation: wrong version, unknown flags, a reply where a request is due or the other way round, or a
/// payload larger than any message has. Where the next message begins is then unknown: the connection cannot go on.
Result<Header> decode_header(std::span<const std::byte, kHeaderSize> bytes, HeaderOf due = HeaderOf::frontend_message);

/// Checks and decodes one message. `body` holds `header.size` bytes. Errc::peer_violation: the message breaks a rule of
/// its own; Errc::not_supported: we do not handle it. The text names message, value and what is allowed.
Result<FrontendMessage> decode(const Header& header, std::span<const std::byte> body, std::vector<OwnedFd> fds);

/// A message as it goes on the socket. The descriptors are the message's own: it must outlive this.
struct Outgoing {
  Bytes bytes;
  std::vector<const OwnedFd*> fds;
};
Outgoing encode(const FrontendMessage& message, bool need_reply);

/// The descriptors that came along with a reply, or with a message of the back-end. The first one is kept: none is due
/// to bring more. Value type.
struct ReplyFiles {
  std::size_t count = 0;
  std::shared_ptr<const OwnedFd> first;
};
/// Checks and decodes the reply to `request`: its number, its size, and what descriptors came with it. An
/// acknowledgement is a `U64Answer`, 0 for success; a GET_CONFIG that the back-end refuses is a `Done`; a back-end that
/// has no in-flight memory to give may leave the descriptor out. Errc::peer_violation names the message: the connection
/// cannot go on.
Result<Answer> decode_reply(Request request, const Header& header, std::span<const std::byte> body,
                            const ReplyFiles& files);

/// A reply to the message of this number, header included. `Done` is the acknowledgement 0.
Bytes encode_reply(std::uint32_t request, const Answer& answer);
/// The acknowledgement that says "failed".
Bytes encode_failure(std::uint32_t request);
/// A reply without payload: the error form of GET_CONFIG.
Bytes encode_empty_reply(std::uint32_t request);

/// A doorbell that may be mapped into the guest. Not checked: whoever maps it does that. Value type.
struct DoorbellArea {
  std::shared_ptr<const OwnedFd> fd;
  std::uint64_t offset;  ///< bytes
  std::uint64_t size;    ///< bytes
  bool operator==(const DoorbellArea&) const = default;
};

/// A message of the back-end, on the channel of SET_BACKEND_REQ_FD. Value type.
struct BackendMessage {
  BackendRequest request;                           ///< one that the table says is handled
  QueueIndex queue{0};                              ///< of all but config_change_msg and iotlb_msg
  std::optional<DoorbellArea> area = std::nullopt;  ///< of vring_host_notifier_msg; absent: the doorbell is withdrawn
  std::shared_ptr<const OwnedFd> group = nullptr;   ///< of vring_vfio_group_msg; absent: the group is withdrawn
  std::optional<memory::Miss> miss = std::nullopt;  ///< of iotlb_msg, where it is always there
  bool operator==(const BackendMessage&) const = default;
};
/// True of a message that offers a descriptor for a queue, or withdraws it: a later one takes its place.
constexpr bool is_offer(BackendRequest request) {
  return request == BackendRequest::vring_host_notifier_msg || request == BackendRequest::vring_vfio_group_msg;
}
/// Errc::peer_violation: the message breaks a rule of its own, or does not exist; Errc::not_supported: we do not handle
/// it; Errc::invalid_value: a vring_host_notifier_msg or vring_vfio_group_msg that says nonsense. The text names the
/// message.
Result<BackendMessage> decode_backend_message(const Header& header, std::span<const std::byte> body,
                                              const ReplyFiles& files);
/// The front-end's answer to a back-end message that asks for one; 0 is success.
Bytes encode_backend_reply(std::uint32_t request, std::uint64_t value);

/// A message of the back-end as it goes on the channel; it must outlive this.
Outgoing encode(const BackendMessage& message, bool need_reply);

inline constexpr std::size_t kBackendReplySize = kHeaderSize + 8;
/// The front-end's acknowledgement of a back-end message: 0 is success. Errc::peer_violation: it is none for `request`.
Result<std::uint64_t> decode_backend_reply(BackendRequest request, std::span<const std::byte, kBackendReplySize> bytes);

}  // namespace causeway::vhost_user

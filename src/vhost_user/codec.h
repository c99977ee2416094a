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

/// Errc::peer_violation: wrong version, unknown flags, a reply where a request is due, or a payload larger than any
/// message has. Where the next message begins is then unknown: the connection cannot go on.
Result<Header> decode_header(std::span<const std::byte, kHeaderSize> bytes);

/// Checks and decodes one message. `body` holds `header.size` bytes. Errc::peer_violation: the message breaks a rule of
/// its own; Errc::not_supported: we do not handle it. The text names message, value and what is allowed.
Result<FrontendMessage> decode(const Header& header, std::span<const std::byte> body, std::vector<OwnedFd> fds);

/// A reply to the message of this number, header included. `Done` is the acknowledgement 0.
Bytes encode_reply(std::uint32_t request, const Answer& answer);
/// The acknowledgement that says "failed".
Bytes encode_failure(std::uint32_t request);
/// A reply without payload: the error form of GET_CONFIG.
Bytes encode_empty_reply(std::uint32_t request);

/// CONFIG_CHANGE_MSG.
Bytes encode_config_change(bool need_reply);
/// VRING_CALL or VRING_ERR.
Bytes encode_vring_event(BackendRequest request, QueueIndex queue, bool need_reply);

inline constexpr std::size_t kBackendReplySize = kHeaderSize + 8;
/// The front-end's acknowledgement of a back-end message: 0 is success. Errc::peer_violation: it is none for `request`.
Result<std::uint64_t> decode_backend_reply(BackendRequest request, std::span<const std::byte, kBackendReplySize> bytes);

}  // namespace causeway::vhost_user

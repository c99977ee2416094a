// One message: reading it off a socket with its descriptors, and sending one.
// Spec: libvfio-user docs/vfio-user.rst, "Header".
#pragma once

#include "base/unix_socket.h"
#include "memory/guest_span.h"
#include "vfio_user/wire.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace causeway::vfio_user {

using Bytes = std::vector<std::byte>;

/// Data of one read or write, at most; also what we tell peers (max_data_xfer_size).
inline constexpr std::uint32_t kMaxTransfer = 1 << 20;
/// Largest payload that is accepted.
inline constexpr std::uint32_t kMaxPayload = kMaxTransfer + 4096;
/// Descriptors that a message to us may carry (max_msg_fds).
inline constexpr std::uint32_t kMaxFds = 16;

/// "DMA_MAP"; "command 99" for one that is not known.
std::string name_of(Command command);

/// The bytes of a value, for a payload.
template <memory::WireType T>
void append(Bytes& to, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

struct Message {
  wire::Header header;
  Bytes body;
  std::vector<OwnedFd> fds;

  Command command() const { return static_cast<Command>(header.command); }
  bool is_reply() const { return (header.flags & wire::kTypeMask) == wire::kReply; }
  /// The structure that the payload begins with. Errc::peer_violation: the payload is too short; names the command.
  template <memory::WireType T>
  Result<T> head() const {
    if (body.size() < sizeof(T)) return too_short();
    T value;
    std::memcpy(&value, body.data(), sizeof value);
    return value;
  }
  /// What follows a structure of `head_size` bytes, which `head` has found to be there.
  std::span<const std::byte> tail(std::size_t head_size) const { return std::span(body).subspan(head_size); }

 private:
  Failure too_short() const;
};

/// Puts messages together from what a socket brings. Descriptors belong to the message in whose bytes they came.
class Inbox {
 public:
  /// Reads what is there. Nothing: the message at hand is not complete yet. Errc::gone: the peer has closed the
  /// connection; Errc::peer_violation: what it sends is no message; Errc::system: descriptors were lost.
  Result<std::optional<Message>> read(const UnixSocket& socket);

 private:
  Result<bool> fill(const UnixSocket& socket, std::span<std::byte> all);
  Result<void> on_header();

  Message message_{};
  std::array<std::byte, sizeof(wire::Header)> head_{};
  std::size_t filled_ = 0;
  bool has_header_ = false;
};

/// The bytes of a message with `header`, whose size this fills in.
void append(Bytes& to, wire::Header header, std::span<const std::byte> body);
/// Sends such a message.
Result<void> send(const UnixSocket& socket, wire::Header header, std::span<const std::byte> body,
                  std::span<const OwnedFd* const> fds = {});

}  // namespace causeway::vfio_user

#include "vfio_user/message.h"

#include <fmt/format.h>

#include <iterator>
#include <utility>

namespace causeway::vfio_user {

std::string name_of(Command command) {
  switch (command) {
    case Command::version:
      return "VERSION";
    case Command::dma_map:
      return "DMA_MAP";
    case Command::dma_unmap:
      return "DMA_UNMAP";
    case Command::device_get_info:
      return "DEVICE_GET_INFO";
    case Command::device_get_region_info:
      return "DEVICE_GET_REGION_INFO";
    case Command::device_get_region_io_fds:
      return "DEVICE_GET_REGION_IO_FDS";
    case Command::device_get_irq_info:
      return "DEVICE_GET_IRQ_INFO";
    case Command::device_set_irqs:
      return "DEVICE_SET_IRQS";
    case Command::region_read:
      return "REGION_READ";
    case Command::region_write:
      return "REGION_WRITE";
    case Command::dma_read:
      return "DMA_READ";
    case Command::dma_write:
      return "DMA_WRITE";
    case Command::device_reset:
      return "DEVICE_RESET";
  }
  return fmt::format("command {}", std::to_underlying(command));
}

Failure Message::too_short() const {
  return fail(Errc::peer_violation,
              fmt::format("{}: a payload of {} bytes is too short", name_of(command()), body.size()));
}

Result<std::optional<Message>> Inbox::read(const UnixSocket& socket) {
  if (!has_header_) {
    CW_TRY(const bool is_whole, fill(socket, head_));
    if (!is_whole) return std::optional<Message>();
    CW_CHECK(on_header());
  }
  CW_TRY(const bool is_whole, fill(socket, message_.body));
  if (!is_whole) return std::optional<Message>();
  has_header_ = false;
  filled_ = 0;
  return std::optional(std::exchange(message_, {}));
}

Result<bool> Inbox::fill(const UnixSocket& socket, std::span<std::byte> all) {
  while (filled_ < all.size()) {
    CW_TRY(auto received, socket.receive(all.subspan(filled_)));
    if (received.closed) return fail(Errc::gone, "the peer has closed the connection");
    if (received.truncated) return fail(Errc::system, "descriptors were lost: this process has no more free");
    if (received.bytes == 0) return false;
    filled_ += received.bytes;
    message_.fds.insert(message_.fds.end(), std::move_iterator(received.fds.begin()),
                        std::move_iterator(received.fds.end()));
    if (message_.fds.size() > kMaxFds) {
      return fail(Errc::peer_violation, fmt::format("a message with more than {} descriptors", kMaxFds));
    }
  }
  return true;
}

Result<void> Inbox::on_header() {
  std::memcpy(&message_.header, head_.data(), head_.size());
  const std::uint32_t size = message_.header.size;
  if (size < sizeof(wire::Header) || size - sizeof(wire::Header) > kMaxPayload) {
    return fail(Errc::peer_violation, fmt::format("{}: a message of {} bytes", name_of(message_.command()), size));
  }
  message_.body.assign(size - sizeof(wire::Header), std::byte{0});
  has_header_ = true;
  filled_ = 0;
  return {};
}

void append(Bytes& to, wire::Header header, std::span<const std::byte> body) {
  header.size = static_cast<std::uint32_t>(sizeof header + body.size());
  append(to, header);
  to.insert(to.end(), body.begin(), body.end());
}

Result<void> send(const UnixSocket& socket, wire::Header header, std::span<const std::byte> body,
                  std::span<const OwnedFd* const> fds) {
  Bytes bytes;
  bytes.reserve(sizeof header + body.size());
  append(bytes, header, body);
  return socket.send(bytes, fds);
}

}  // namespace causeway::vfio_user

// One connected client: its messages, done to a vfio::Bus. Spec: libvfio-user docs/vfio-user.rst.
#pragma once

#include "base/event_fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/unix_socket.h"
#include "memory/memory_map.h"
#include "vfio/bus.h"
#include "vfio_user/capabilities.h"
#include "vfio_user/message.h"

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace causeway::vfio_user {

/// That a client may have at the same time.
inline constexpr std::uint32_t kMaxDmaMaps = 4096;

/// Messages are answered in the order in which they come; the replies to those that come together are sent together.
/// One that cannot be done is answered with an error and changes nothing; bytes that are no message end the connection.
/// Destruction takes everything back from the function. Thread: control.
class ServerConnection {
 public:
  /// Called once, when the connection has ended by itself; may destroy it.
  using OnEnd = std::move_only_function<void(Error)>;

  ServerConnection(Loop& loop, vfio::Bus& function, std::string name, UnixSocket socket, OnEnd on_end);
  ServerConnection(const ServerConnection&) = delete;
  ServerConnection& operator=(const ServerConnection&) = delete;
  ~ServerConnection();

  /// Does what there is to be done now; the connection may end, and be destroyed, in this.
  void look() { on_readable(); }

 private:
  struct Reply {
    Bytes body;
    const OwnedFd* fd = nullptr;
  };
  /// A part of the client's memory. What cannot be mapped the function does not reach.
  struct DmaWindow {
    std::uint64_t address;
    std::uint64_t size;
    std::optional<memory::Region> region;
  };

  void on_readable();
  Result<bool> take_message();
  Result<void> respond(const Message& message, const Result<Reply>& reply);
  Result<Reply> handle(Message& message);
  Result<void> flush();
  void end(Error why);

  Result<Reply> on_version(const Message& message);
  Result<Reply> on_dma_map(Message& message);
  Result<Reply> on_dma_unmap(const Message& message);
  Result<Reply> on_get_info(const Message& message) const;
  Result<Reply> on_get_region_info(const Message& message) const;
  Result<Reply> on_get_irq_info(const Message& message) const;
  Result<Reply> on_set_irqs(Message& message);
  Result<Reply> on_region_read(const Message& message);
  Result<Reply> on_region_write(const Message& message);
  Result<Reply> on_reset();

  Result<void> set_eventfds(const wire::IrqSet& set, std::vector<OwnedFd> fds);
  Result<void> trigger(const wire::IrqSet& set, std::span<const std::byte> wanted) const;
  void disable_vectors();
  void unmap_all();

  Loop& loop_;
  vfio::Bus& function_;
  std::string name_;
  UnixSocket socket_;
  OnEnd on_end_;
  Inbox inbox_;
  Bytes outbox_;                        // replies that are sent once no more requests are there
  std::optional<Capabilities> theirs_;  // after VERSION
  std::vector<DmaWindow> windows_;
  std::vector<std::optional<EventFd>> vectors_;  // empty: disabled
  log::RateLimit log_limit_;
  std::optional<Loop::Registration> watch_;
};

}  // namespace causeway::vfio_user

// The client side of vfio-user: a function in another process as a vfio::Bus.
// Spec: libvfio-user docs/vfio-user.rst.
#pragma once

#include "base/loop.h"
#include "base/unix_socket.h"
#include "memory/memory_map.h"
#include "vfio/bus.h"
#include "vfio_user/capabilities.h"
#include "vfio_user/message.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>

namespace causeway::vfio_user {

struct ClientConfig {
  std::filesystem::path path;
  std::chrono::milliseconds patience{5000};  ///< for each reply
};

/// Each request waits for its reply, and several accesses for their replies together. A server that closes the
/// connection, breaks the protocol or does not answer in time is gone for good: the connection is closed, the observer
/// told, later calls fail with Errc::gone. Between requests it answers the server's own (DMA_READ, DMA_WRITE). Thread:
/// control.
class Client final : public vfio::Bus {
 public:
  /// Connects and learns what the function is. Errc::gone: nobody is there, or it left; Errc::not_supported: it speaks
  /// another version, or is no PCI function; Errc::peer_violation: it breaks the protocol. All name the path. `loop`
  /// must outlive it.
  static Result<std::unique_ptr<Client>> connect(Loop& loop, ClientConfig config);
  /// On a connection that is there already; `path` is its name.
  static Result<std::unique_ptr<Client>> make_on(Loop& loop, ClientConfig config, UnixSocket socket);
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const vfio::BusInfo& info() const override { return info_; }
  void set_observer(vfio::BusObserver* observer) override { observer_ = observer; }
  Result<void> read(vfio::RegionIndex region, std::uint64_t offset, std::span<std::byte> to) override;
  Result<void> write(vfio::RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) override;
  Result<void> access(std::span<vfio::Access> accesses) override;
  std::optional<vfio::RegionFile> file_of(vfio::RegionIndex region, vfio::Area area) const override;
  Result<void> dma_map(const memory::Region& region) override;
  Result<void> dma_unmap(const memory::Region& region) override;
  Result<void> enable_vectors(std::uint32_t count) override;
  Result<void> set_vector(std::uint32_t vector, const OwnedFd* event) override;
  Result<void> reset() override;

 private:
  using Clock = std::chrono::steady_clock;
  using Fds = std::span<const OwnedFd* const>;
  struct RegionMemory {
    OwnedFd file;
    std::uint64_t offset;  ///< of the region in `file`
  };

  Client(Loop& loop, ClientConfig config, UnixSocket socket);

  // client.cpp: messages
  Result<Message> ask(Command command, std::span<const std::byte> body, Fds fds = {});
  Result<void> post(Command command, std::span<const std::byte> bytes, Fds fds);
  static Result<void> verdict(const Message& reply);
  Result<Message> await_reply(Command command, std::uint16_t id);
  Result<Message> receive_reply(Command command, std::uint16_t id);
  Result<void> wait_readable(Clock::time_point deadline) const;
  Result<void> serve(const Message& command);
  Result<Bytes> answer(const Message& command) const;
  void watch();
  void on_readable();
  Failure lost(Error why);
  Failure gone() const;

  // client_device.cpp: what they say
  Result<void> learn();
  Result<void> learn_region(vfio::RegionIndex index);
  Result<void> check(const vfio::RegionInfo& region, std::uint64_t offset, std::size_t size, bool permitted) const;
  Result<void> pipeline(std::span<vfio::Access> accesses);
  Result<void> take(const Message& reply, std::span<std::byte> to);
  Result<void> tell(Command command, std::span<const std::byte> body, Fds fds = {});
  Result<void> set_irqs(std::uint32_t data, std::uint32_t start, std::uint32_t count, Fds fds = {});

  Loop& loop_;
  ClientConfig config_;
  std::optional<UnixSocket> socket_;  // nothing: gone
  Inbox inbox_;
  vfio::BusInfo info_;
  Capabilities theirs_;
  std::array<std::optional<RegionMemory>, vfio::kRegions> files_;
  std::shared_ptr<const memory::MemoryMap> map_ = memory::MemoryMap::empty();  // what the function may reach
  vfio::BusObserver* observer_ = nullptr;
  std::uint16_t next_id_ = 0;
  std::uint32_t vectors_ = 0;  // enabled
  std::optional<Loop::Registration> watch_;
  std::optional<Loop::Registration> tell_soon_;
};

}  // namespace causeway::vfio_user

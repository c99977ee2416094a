// A tap interface of the host, with one descriptor per queue. Linux: Documentation/networking/tuntap.rst.
#pragma once

#include "base/owned_fd.h"

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace causeway::net {

/// What the reader of a tap can take without the kernel's help.
struct TapOffloads {
  bool csum = false;
  bool tso4 = false;
  bool tso6 = false;
  bool ecn = false;
  bool uso = false;
};

/// Frames travel with a virtio network header before them. Thread: one at a time.
class TapDevice {
 public:
  /// Creates the interface `name` (1 to 15 characters), or attaches to one of that name that is persistent, and takes
  /// it up. It goes away with this object unless it is persistent. Needs CAP_NET_ADMIN.
  static Result<TapDevice> open(const std::string& name, std::uint16_t queues);

  const std::string& name() const { return name_; }
  std::uint16_t queue_count() const { return static_cast<std::uint16_t>(queues_.size()); }
  const OwnedFd& queue(std::uint16_t index) const { return queues_[index]; }

  /// Tells the kernel what it need not resolve; USO is left out where the kernel does not know it (before 6.2).
  Result<void> set_offloads(TapOffloads offloads) const;
  /// Bytes of the virtio header before each frame: 10 or 12.
  Result<void> set_header_size(std::uint32_t bytes) const;

  /// One frame; 0 when there is none.
  Result<std::size_t> read(std::uint16_t index, std::span<const iovec> parts) const;
  /// One frame; 0 when the interface takes none now.
  Result<std::size_t> write(std::uint16_t index, std::span<const iovec> parts) const;

 private:
  TapDevice(std::string name, std::vector<OwnedFd> queues) : name_(std::move(name)), queues_(std::move(queues)) {}
  Result<void> take_up() const;

  std::string name_;
  std::vector<OwnedFd> queues_;
};

}  // namespace causeway::net

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
  bool csum = false;  ///< the others need it
  bool tso4 = false;
  bool tso6 = false;
  bool ecn = false;  ///< in TSO
  bool uso = false;  ///< IPv4 and IPv6

  bool operator==(const TapOffloads&) const = default;
};

/// Frames travel with a virtio network header before them. Thread: one at a time.
///
/// Invariants: (1) there is at least one queue, and the first is always attached; (2) no call waits.
class TapDevice {
 public:
  static constexpr std::uint16_t kMaxQueues = 256;  // the kernel's limit

  /// Creates the interface `name` (1 to 15 characters), or attaches to one of that name that is persistent, and takes
  /// it up. It goes away with this object unless it is persistent. Needs CAP_NET_ADMIN, unless the interface is
  /// persistent, up, and this user's. Errc::invalid_value: the name, the number of queues, or an interface of that name
  /// that is no tap; Errc::busy: somebody else has it open.
  static Result<TapDevice> open(const std::string& name, std::uint16_t queues);

  /// Goes on with the queues of another process, which has set the interface up; at least one.
  static TapDevice adopt(std::string name, std::vector<OwnedFd> queues) { return {std::move(name), std::move(queues)}; }

  const std::string& name() const { return name_; }
  std::uint16_t queue_count() const { return static_cast<std::uint16_t>(queues_.size()); }
  const OwnedFd& queue(std::uint16_t index) const { return queues_[index]; }

  /// Tells the kernel what it need not resolve in what is read. Returns what it will leave unresolved: not more than
  /// asked, without USO where the kernel does not know it (before 6.2), and nothing without `csum`.
  Result<TapOffloads> set_offloads(TapOffloads offloads) const;
  /// Bytes of the virtio header before each frame: 10 or 12.
  Result<void> set_header_size(std::uint32_t bytes) const;
  /// Largest payload behind an Ethernet header, 68 to 65521, without offloads. Needs CAP_NET_ADMIN.
  Result<void> set_mtu(std::uint16_t mtu) const;

  /// The kernel spreads flows over the attached queues: one that nobody reads must be detached, or its flows starve.
  /// Detaching drops what the queue holds, and nothing more comes to it. The first queue stays. Doing either twice is
  /// no error.
  Result<void> attach_queue(std::uint16_t index);
  Result<void> detach_queue(std::uint16_t index);

  /// One frame; 0 when there is none.
  Result<std::size_t> read(std::uint16_t index, std::span<const iovec> parts) const;
  /// One frame; 0 when the interface takes none now.
  Result<std::size_t> write(std::uint16_t index, std::span<const iovec> parts) const;

 private:
  TapDevice(std::string name, std::vector<OwnedFd> queues)
      : name_(std::move(name)), queues_(std::move(queues)), attached_(queues_.size(), true) {}
  Result<void> take_up() const;
  Result<void> change_queue(std::uint16_t index, bool attached);

  std::string name_;
  std::vector<OwnedFd> queues_;
  std::vector<bool> attached_;
};

}  // namespace causeway::net

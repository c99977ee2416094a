// Which pages of guest memory were written, for a live migration that copies them again.
// Spec: QEMU docs/interop/vhost-user.rst, "Migration"; virtio has no log of its own.
#pragma once

#include "base/event_fd.h"
#include "base/mapping.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "memory/address.h"
#include "memory/guest_span.h"
#include "memory/memory_map.h"

#include <atomic>
#include <cstdint>
#include <memory>

namespace causeway::memory {

/// A bit for each page of the guest's, from address 0 on, the lowest bit of a byte first; in memory of the front-end's,
/// which takes bits away at any time. Immutable but for the bits. Thread: any.
class DirtyLog {
 public:
  /// Bytes that one bit stands for, whatever a page of this machine has.
  static constexpr std::uint64_t kPage = 4096;

  /// `size` bytes at `offset` of `file`. Errc::peer_violation: empty, or not inside the file.
  static Result<std::shared_ptr<const DirtyLog>> map(const OwnedFd& file, std::uint64_t offset, std::uint64_t size);
  /// The same bits, with an event that `announce` signals.
  std::shared_ptr<const DirtyLog> with_event(std::shared_ptr<const EventFd> changed) const;

  /// Whether every page of the map has a bit.
  bool covers(const MemoryMap& map) const;
  /// Sets the bits of the pages with these bytes, which were written before, with a `full_fence` in between: it pairs
  /// with the front-end's exchange of the bits before it reads the pages, so that a bit which is found set is taken
  /// away only by one that will read the bytes. What has no bit is left out; `covers` tells before. Cost of a page
  /// whose bit is set already: one load.
  void mark(Iova at, std::uint64_t bytes) const {
    const std::uint64_t first = at.value() / kPage;
    const std::uint64_t last = (at.value() + (bytes - 1)) / kPage;
    if (bytes != 0 && first / 8 == last / 8 && first / 8 < bits_.size()) [[likely]] {
      mark_in_byte(first, last);
    } else {
      mark_slowly(at, bytes);
    }
  }
  /// Tells the front-end, where it wants to be told, that there are new bits. Cost then: a system call.
  void announce() const {
    if (changed_) changed_->signal();
  }

 private:
  DirtyLog(std::shared_ptr<const Mapping> mapping, std::shared_ptr<const EventFd> changed);
  void mark_in_byte(std::uint64_t first, std::uint64_t last) const {
    const auto mask = static_cast<std::uint8_t>((0xffU << (first % 8)) & (0xffU >> (7 - last % 8)));
    if ((bits_.load<std::uint8_t>(first / 8, std::memory_order_relaxed) & mask) != mask) [[unlikely]]
      bits_.fetch_or<std::uint8_t>(first / 8, mask, std::memory_order_release);
  }
  void mark_slowly(Iova at, std::uint64_t bytes) const;
  std::shared_ptr<const Mapping> mapping_;
  GuestSpan bits_;
  std::shared_ptr<const EventFd> changed_;
};

}  // namespace causeway::memory

// A frame on its way: still lying in its sender's buffers.
#pragma once

#include "memory/guest_span.h"
#include "net/ethernet.h"
#include "net/rss_hash.h"
#include "virtio/feature.h"
#include "virtio/net.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace causeway::net {

/// Largest frame with its offloads unresolved, Ethernet header included: 64 KiB of IP behind an Ethernet header with
/// VLAN.
inline constexpr std::uint32_t kMaxFrame = 65536 + 18;

/// One frame. Header and start are our own copies, read once; the payload is read when it is copied to its receiver.
/// Valid until the batch it came from is completed.
///
/// `header` and `ethernet` lie behind each other as they do in the usual chain, so that both are read and written at
/// once.
struct Frame {
  virtio::NetHeader header;                     ///< offloads asked for, checked against the frame
  EthernetHeader ethernet;                      ///< our copy of the first bytes
  std::uint32_t length = 0;                     ///< bytes of the frame, Ethernet header included, virtio header not
  std::span<const memory::GuestSpan> segments;  ///< the frame's bytes behind `skip`
  std::uint32_t skip = 0;                       ///< bytes of the first segment that are not the frame's
  bool has_bad_header = false;                  ///< why `length` is 0: what it asks for, not its size
  HashResult hash{};                            ///< of its receiver's choice, where it wants one reported
};

/// Whether it asks for no offload.
inline bool is_plain(const Frame& frame) {
  return frame.header.flags == 0 && frame.header.gso_type == virtio::kGsoNone;
}

inline constexpr std::size_t kFrameStart = sizeof(virtio::NetHeader) + sizeof(EthernetHeader);
static_assert(offsetof(Frame, header) == 0 && offsetof(Frame, ethernet) == sizeof(virtio::NetHeader));

/// The bytes of a frame's header and Ethernet header.
inline std::span<std::byte, kFrameStart> start_of(Frame& frame) {
  return std::as_writable_bytes(std::span<Frame, 1>(&frame, 1)).first<kFrameStart>();
}
inline std::span<const std::byte, kFrameStart> start_of(const Frame& frame) {
  return std::as_bytes(std::span<const Frame, 1>(&frame, 1)).first<kFrameStart>();
}

}  // namespace causeway::net

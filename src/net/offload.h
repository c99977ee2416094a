// Checksum and segmentation offloads: checking what a sender asks for, and doing it for a receiver that cannot.
// Spec: virtio 1.3 section 5.1.6.2 and 5.1.6.4.
#pragma once

#include "net/offload_layout.h"
#include "virtio/feature.h"
#include "virtio/net.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace causeway::net {

/// What is wrong with a header that a driver sent.
enum class HeaderFault : std::uint8_t {
  none,
  not_negotiated,  ///< an offload that the driver did not negotiate
  bad_gso_type,    ///< unknown, not offered by us, or ECN with what is not TCP
  gso_without_size,
  gso_without_checksum,  ///< segmentation needs the checksum to be asked for too
  csum_outside_frame,
  gso_header_outside_frame,  ///< the transport header at csum_start
  gso_checksum_misplaced,    ///< csum_offset is not where the protocol has its checksum
};

/// The full check; `check_header` is the way in.
HeaderFault check_offloads(virtio::NetHeader& header, std::uint32_t frame_length, virtio::FeatureSet negotiated);

/// Checks the header of a frame of `frame_length` bytes, before it is believed and handed on. Flags that a driver may
/// not set, DATA_VALID above all, are cleared: the standard wants them ignored, and the receiver would believe them.
/// hdr_len is a hint that nobody may rely on, and so is not checked. Cost for a frame without offloads: one comparison.
inline HeaderFault check_header(virtio::NetHeader& header, std::uint32_t frame_length, virtio::FeatureSet negotiated) {
  if (header.flags == 0 && header.gso_type == virtio::kGsoNone) [[likely]]
    return HeaderFault::none;
  return check_offloads(header, frame_length, negotiated);
}

/// True when a driver that negotiated `receiver` must not be given a frame with this header.
bool lacks_offloads(const virtio::NetHeader& header, virtio::FeatureSet receiver);
inline bool needs_resolution(const virtio::NetHeader& header, virtio::FeatureSet receiver) {
  if (header.flags == 0 && header.gso_type == virtio::kGsoNone) [[likely]]
    return false;
  return lacks_offloads(header, receiver);
}

/// The Internet checksum's one's complement sum of `bytes` on top of `sum`, not yet inverted (RFC 1071).
std::uint16_t internet_sum(std::span<const std::byte> bytes, std::uint16_t sum = 0);

/// Resolves offloads in software: the slow path for receivers without them. Owns its buffer. Thread: one.
class Resolver {
 public:
  /// Frames made of one: so many segments have 64 KiB of TCP at its least segment size, 48. What would be more is
  /// refused, so that no guest can make one frame cost 65,000.
  static constexpr std::size_t kMaxSegments = 1366;

  /// `frame` is valid during the call. num_buffers is left to whoever delivers.
  using Emit = std::function<void(const virtio::NetHeader& header, std::span<const std::byte> frame)>;

  /// Gives to `emit` one or more frames that the receiver can take, made from `frame`, our private copy (it is
  /// changed). The header has passed `check_header`. False when the frame is not what its header says; then nothing was
  /// emitted. Segments for a receiver with GUEST_CSUM have their checksums left to it.
  bool resolve(const virtio::NetHeader& header, std::span<std::byte> frame, virtio::FeatureSet receiver,
               const Emit& emit);

 private:
  bool segment(const virtio::NetHeader& header, std::span<const std::byte> frame, bool receiver_checks,
               const Emit& emit);

  std::vector<std::byte> segment_;
};

}  // namespace causeway::net

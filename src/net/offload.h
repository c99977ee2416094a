// Checksum and segmentation offloads: checking what a sender asks for, and doing it for a receiver that cannot.
// Spec: virtio 1.3 section 5.1.6.2 and 5.1.6.4.
#pragma once

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
  bad_gso_type,
  gso_without_size,      ///< segments of 0 bytes
  gso_without_checksum,  ///< segmentation needs the checksum to be asked for too
  csum_outside_frame,
};

/// The full check; `check_header` is the way in.
HeaderFault check_offloads(const virtio::NetHeader& header, std::uint32_t frame_length, virtio::FeatureSet negotiated);

/// Checks the header of a frame of `frame_length` bytes. Cost for a frame without offloads: one comparison.
inline HeaderFault check_header(const virtio::NetHeader& header, std::uint32_t frame_length,
                                virtio::FeatureSet negotiated) {
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

/// Resolves offloads in software: the slow path for receivers without them. Owns its buffers. Thread: one.
class Resolver {
 public:
  using Emit = std::function<void(const virtio::NetHeader& header, std::span<const std::byte> frame)>;

  /// Gives to `emit` one or more frames that the receiver can take, made from `frame`, our private copy (it is
  /// changed). False when the frame is not what its header says; then nothing was emitted.
  bool resolve(const virtio::NetHeader& header, std::span<std::byte> frame, virtio::FeatureSet receiver,
               const Emit& emit);

 private:
  bool segment(const virtio::NetHeader& header, std::span<const std::byte> frame, bool receiver_checks,
               const Emit& emit);

  std::vector<std::byte> segment_;
};

}  // namespace causeway::net

// The reply to DEVICE_GET_REGION_INFO, in both directions.
// Spec: libvfio-user docs/vfio-user.rst, "VFIO_USER_DEVICE_GET_REGION_INFO".
#pragma once

#include "base/result.h"
#include "vfio/bus.h"
#include "vfio_user/message.h"

#include <cstdint>

namespace causeway::vfio_user {

struct RegionReply {
  vfio::RegionInfo info;
  std::uint64_t file_offset;  ///< of the region in the descriptor that comes along
};

/// Errc::peer_violation: lengths, offsets or the number of descriptors contradict each other.
Result<RegionReply> decode_region(const Message& reply);
/// As much of it as fits into `room` bytes, as the protocol wishes: the structure at least, and argsz that tells.
Bytes encode_region(vfio::RegionIndex index, const RegionReply& region, std::uint32_t room);

}  // namespace causeway::vfio_user

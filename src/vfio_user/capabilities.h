// What the two ends tell each other in VERSION. Spec: libvfio-user docs/vfio-user.rst, "VFIO_USER_VERSION".
#pragma once

#include "base/result.h"
#include "vfio_user/message.h"

#include <cstdint>
#include <span>

namespace causeway::vfio_user {

/// Of one end; the defaults are those of an end that says nothing. Value type.
struct Capabilities {
  std::uint32_t max_fds = 1;             ///< that it can receive with one message
  std::uint32_t max_transfer = 1 << 20;  ///< bytes of one read or write
  std::uint32_t max_dma_maps = 65535;    ///< at the same time
  std::uint64_t page_sizes = 4096;       ///< for DMA maps, or'ed together
};

/// Payload of VERSION with our version and `ours`.
Bytes encode_version(const Capabilities& ours);
/// What the other end says. Errc::not_supported: another major version. Errc::peer_violation: not what is due; the text
/// says where.
Result<Capabilities> decode_version(const Message& message);

}  // namespace causeway::vfio_user

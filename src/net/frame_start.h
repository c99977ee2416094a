// The first bytes of a frame in one piece, for those who look into its headers.
#pragma once

#include "net/frame.h"

#include <cstddef>
#include <span>

namespace causeway::net {

/// Copies the frame's first bytes, as many as there are and fit, into `room` (at least an Ethernet header) and returns
/// them. The Ethernet header is the frame's own copy; what follows is read from the sender's buffers, and the sender
/// may change it until it is read again.
std::span<const std::byte> read_start(const Frame& frame, std::span<std::byte> room);

}  // namespace causeway::net

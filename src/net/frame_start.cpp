#include "net/frame_start.h"

#include <algorithm>
#include <cstring>

namespace causeway::net {

std::span<const std::byte> read_start(const Frame& frame, std::span<std::byte> room) {
  std::memcpy(room.data(), &frame.ethernet, sizeof frame.ethernet);
  std::size_t have = sizeof frame.ethernet;
  std::size_t skip = frame.skip + sizeof frame.ethernet;
  for (const auto& segment : frame.segments) {
    if (skip >= segment.size()) {
      skip -= segment.size();
      continue;
    }
    const std::size_t count = std::min(segment.size() - skip, room.size() - have);
    segment.read(skip, room.subspan(have, count));
    have += count;
    skip = 0;
    if (have == room.size()) break;
  }
  return room.first(have);
}

}  // namespace causeway::net

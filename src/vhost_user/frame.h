// Puts payloads together into framed messages. Private to the encoding half of the codec.
#pragma once

#include "vhost_user/codec.h"
#include "vhost_user/wire.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace causeway::vhost_user {

template <class T>
void append(Bytes& bytes, const T& value) {
  const auto raw = std::as_bytes(std::span(&value, 1));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

inline Bytes frame(std::uint32_t request, std::uint32_t flags, std::size_t size) {
  Bytes bytes;
  bytes.reserve(kHeaderSize + size);
  append(bytes,
         wire::Header{.request = request, .flags = wire::kVersion | flags, .size = static_cast<std::uint32_t>(size)});
  return bytes;
}

template <class T>
Bytes frame_with(std::uint32_t request, std::uint32_t flags, const T& payload) {
  Bytes bytes = frame(request, flags, sizeof payload);
  append(bytes, payload);
  return bytes;
}

inline wire::Region wire_region(const RegionAddress& address) {
  return {.guest_address = address.guest.value(),
          .size = address.size,
          .user_address = address.frontend.value(),
          .mmap_offset = address.offset};
}

inline Bytes mem_table(std::uint32_t request, std::uint32_t flags, std::span<const RegionAddress> regions) {
  Bytes bytes = frame(request, flags, sizeof(wire::MemoryTableHead) + regions.size() * sizeof(wire::Region));
  append(bytes, wire::MemoryTableHead{.count = static_cast<std::uint32_t>(regions.size()), .padding = 0});
  for (const RegionAddress& region : regions) append(bytes, wire_region(region));
  return bytes;
}

/// Size, offset, queues, entries; then zeros up to `payload` bytes, since front-ends differ in the padding.
inline void append_inflight(Bytes& bytes, const InflightDescription& region, std::size_t payload) {
  const std::size_t end = bytes.size() + payload;
  append(bytes, region.size);
  append(bytes, region.offset);
  append(bytes, region.queues);
  append(bytes, region.entries);
  bytes.resize(end);
}

inline std::uint32_t need_reply_flag(bool need_reply) {
  return need_reply ? wire::kNeedReplyFlag : 0;
}

}  // namespace causeway::vhost_user

#include "vfio_user/region_reply.h"

#include "base/mapping.h"

#include <fmt/format.h>

#include <limits>

namespace causeway::vfio_user {
namespace {

Failure wrong(std::string what) {
  return fail(Errc::peer_violation, "DEVICE_GET_REGION_INFO: " + std::move(what));
}

bool fits(std::uint64_t offset, std::uint64_t size, std::uint64_t whole) {
  return offset <= whole && size <= whole - offset;
}

Result<std::vector<vfio::Area>> decode_areas(std::span<const std::byte> body, std::size_t at, std::uint64_t size) {
  const auto value_at = [&]<class T>(std::size_t offset, T& to) {
    if (!fits(offset, sizeof to, body.size())) return false;
    std::memcpy(&to, body.data() + offset, sizeof to);
    return true;
  };
  wire::SparseMmap head{};
  if (!value_at(at, head)) return wrong("the sparse areas are cut off");
  std::vector<vfio::Area> areas;
  for (std::size_t i = 0; i < head.areas; ++i) {
    wire::SparseArea area{};
    if (!value_at(at + sizeof head + i * sizeof area, area)) return wrong("the sparse areas are cut off");
    if (!fits(area.offset, area.size, size)) return wrong("an area outside the region");
    if (area.offset % page_size() != 0 || area.size % page_size() != 0) return wrong("an area of broken pages");
    areas.push_back({.offset = area.offset, .size = area.size});
  }
  return areas;
}

/// Nothing said: the whole region.
Result<std::vector<vfio::Area>> mappable_of(std::span<const std::byte> body, const wire::RegionInfo& region) {
  const bool has_caps = (region.flags & wire::kRegionCaps) != 0;
  // They did not fit into the reply: nobody knows which parts may not be mapped.
  if (has_caps && region.cap_offset == 0) return std::vector<vfio::Area>();
  std::uint64_t next = has_caps ? region.cap_offset : 0;
  while (next != 0) {
    wire::CapHeader head{};
    if (!fits(next, sizeof head, body.size())) return wrong("a capability is cut off");
    std::memcpy(&head, body.data() + next, sizeof head);
    if (head.id == wire::kCapSparseMmap) return decode_areas(body, next + sizeof head, region.size);
    // Only forward, so that the chain ends.
    if (head.next != 0 && head.next <= next) return wrong("the capabilities go in a circle");
    next = head.next;
  }
  return std::vector<vfio::Area>{{.offset = 0, .size = region.size / page_size() * page_size()}};
}

}  // namespace

Result<RegionReply> decode_region(const Message& reply) {
  CW_TRY(const auto region, reply.head<wire::RegionInfo>());
  RegionReply decoded{.info = {.size = region.size,
                               .readable = (region.flags & wire::kRegionRead) != 0,
                               .writable = (region.flags & wire::kRegionWrite) != 0,
                               .mappable = {}},
                      .file_offset = region.offset};
  if (region.size == 0 || (region.flags & wire::kRegionMmap) == 0 || reply.fds.empty()) return decoded;
  if (reply.fds.size() > 1) return wrong(fmt::format("{} descriptors", reply.fds.size()));
  if (region.offset % page_size() != 0 || region.size > std::numeric_limits<std::uint64_t>::max() - region.offset) {
    return wrong(fmt::format("file offset {:#x}", region.offset));
  }
  CW_TRY(decoded.info.mappable, mappable_of(reply.body, region));
  return decoded;
}

Bytes encode_region(vfio::RegionIndex index, const RegionReply& region, std::uint32_t room) {
  const auto& areas = region.info.mappable;
  const std::size_t caps =
      areas.empty() ? 0 : sizeof(wire::CapHeader) + sizeof(wire::SparseMmap) + areas.size() * sizeof(wire::SparseArea);
  const std::size_t whole = sizeof(wire::RegionInfo) + caps;
  wire::RegionInfo head{.argsz = static_cast<std::uint32_t>(whole),
                        .flags = 0,
                        .index = static_cast<std::uint32_t>(vfio::number(index)),
                        .cap_offset = 0,
                        .size = region.info.size,
                        .offset = region.file_offset};
  if (region.info.readable) head.flags |= wire::kRegionRead;
  if (region.info.writable) head.flags |= wire::kRegionWrite;
  if (caps != 0) head.flags |= wire::kRegionMmap | wire::kRegionCaps;
  const bool has_room = caps != 0 && whole <= room;
  if (has_room) head.cap_offset = sizeof head;
  Bytes body;
  append(body, head);
  if (!has_room) return body;
  append(body, wire::CapHeader{.id = wire::kCapSparseMmap, .version = 1, .next = 0});
  append(body, wire::SparseMmap{.areas = static_cast<std::uint32_t>(areas.size()), .reserved = 0});
  for (const vfio::Area& area : areas) append(body, wire::SparseArea{.offset = area.offset, .size = area.size});
  return body;
}

}  // namespace causeway::vfio_user

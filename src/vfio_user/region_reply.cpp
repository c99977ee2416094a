#include "vfio_user/region_reply.h"

#include "base/mapping.h"
#include "vfio/region_layout.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

namespace causeway::vfio_user {
namespace {

Failure wrong(std::string what) {
  return fail(Errc::peer_violation, "DEVICE_GET_REGION_INFO: " + std::move(what));
}

}  // namespace

Result<RegionReply> decode_region(const Message& reply) {
  auto answer = vfio::read_region_answer(reply.body);
  if (!answer) return fail(std::move(answer).error().context("DEVICE_GET_REGION_INFO"));
  RegionReply decoded{.info = std::move(answer->info), .file_offset = answer->offset};
  if (reply.fds.size() > 1) return wrong(fmt::format("{} descriptors", reply.fds.size()));
  if (reply.fds.empty() || decoded.info.mappable.empty()) {
    decoded.info.mappable.clear();
    return decoded;
  }
  if (decoded.file_offset % page_size() != 0) return wrong(fmt::format("file offset {:#x}", decoded.file_offset));
  decoded.info.mappable = vfio::whole_pages(decoded.info.mappable, std::nullopt, page_size());
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

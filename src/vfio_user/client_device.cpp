// What a client says and asks: the function's regions, DMA maps, interrupts, reset.
#include "base/mapping.h"
#include "vfio_user/client.h"
#include "vfio_user/region_reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::vfio_user {
namespace {

template <memory::WireType T>
Bytes payload(const T& value) {
  Bytes bytes;
  append(bytes, value);
  return bytes;
}

/// Requests that are sent before a reply is waited for: so few that a server that does the same finds room for all its
/// replies in the socket.
constexpr std::size_t kUnderWay = 32;

Command command_of(const vfio::Access& access) {
  return access.is_write ? Command::region_write : Command::region_read;
}

}  // namespace

Result<void> Client::learn() {
  const Capabilities ours{.max_fds = kMaxFds, .max_transfer = kMaxTransfer, .page_sizes = page_size()};
  CW_TRY(const auto version, ask(Command::version, encode_version(ours)));
  CW_TRY(theirs_, decode_version(version));
  const wire::DeviceInfo wanted{.argsz = sizeof(wire::DeviceInfo), .flags = 0, .regions = 0, .irqs = 0};
  CW_TRY(const auto reply, ask(Command::device_get_info, payload(wanted)));
  CW_TRY(const auto device, reply.head<wire::DeviceInfo>());
  if ((device.flags & wire::kDevicePci) == 0) return fail(Errc::not_supported, "it is no PCI function");
  info_.can_reset = (device.flags & wire::kDeviceReset) != 0;
  for (std::uint32_t i = 0; i < std::min(device.regions, wire::kPciRegions); ++i) {
    CW_CHECK(learn_region(static_cast<vfio::RegionIndex>(i)));
  }
  if (device.irqs > wire::kMsixIndex) {
    const wire::IrqInfo irq{.argsz = sizeof(wire::IrqInfo), .flags = 0, .index = wire::kMsixIndex, .count = 0};
    CW_TRY(const auto irqs, ask(Command::device_get_irq_info, payload(irq)));
    CW_TRY(const auto msix, irqs.head<wire::IrqInfo>());
    if ((msix.flags & wire::kIrqEventfd) != 0) info_.vectors = std::min<std::uint32_t>(msix.count, 2048);
  }
  info_.iovas.push_back({.first = memory::Iova(0), .last = memory::Iova(~0ULL)});
  return {};
}

Result<void> Client::learn_region(vfio::RegionIndex index) {
  constexpr std::uint32_t kRoom = 4096;
  const wire::RegionInfo wanted{.argsz = kRoom,
                                .flags = 0,
                                .index = static_cast<std::uint32_t>(vfio::number(index)),
                                .cap_offset = 0,
                                .size = 0,
                                .offset = 0};
  CW_TRY(auto reply, ask(Command::device_get_region_info, payload(wanted)));
  auto decoded = decode_region(reply);
  if (!decoded) return lost(std::move(decoded).error().context(fmt::format("region {}", vfio::number(index))));
  info_.regions[vfio::number(index)] = std::move(decoded->info);
  if (!reply.fds.empty()) {
    files_[vfio::number(index)].emplace(std::move(reply.fds.front()), decoded->file_offset);
  }
  return {};
}

Result<void> Client::tell(Command command, std::span<const std::byte> body, Fds fds) {
  CW_CHECK(ask(command, body, fds));
  return {};
}

Result<void> Client::check(const vfio::RegionInfo& region, std::uint64_t offset, std::size_t size,
                           bool permitted) const {
  if (permitted && offset <= region.size && size <= region.size - offset && size <= theirs_.max_transfer) return {};
  return fail(Errc::invalid_value, fmt::format("'{}': {:#x}+{:#x} cannot be accessed in a region of {:#x} bytes",
                                               info_.name, offset, size, region.size));
}

Result<void> Client::read(vfio::RegionIndex region, std::uint64_t offset, std::span<std::byte> to) {
  CW_CHECK(check(info_.region(region), offset, to.size(), info_.region(region).readable));
  const wire::RegionAccess access{.offset = offset,
                                  .region = static_cast<std::uint32_t>(vfio::number(region)),
                                  .count = static_cast<std::uint32_t>(to.size())};
  CW_TRY(const auto reply, ask(Command::region_read, payload(access)));
  return take(reply, to);
}

/// What a REGION_READ has brought.
Result<void> Client::take(const Message& reply, std::span<std::byte> to) {
  CW_TRY(const auto done, reply.head<wire::RegionAccess>());
  const auto data = reply.tail(sizeof done);
  if (data.size() != to.size()) {
    return lost(
        {.code = Errc::peer_violation, .what = fmt::format("REGION_READ: {} bytes, not {}", data.size(), to.size())});
  }
  std::ranges::copy(data, to.begin());
  return {};
}

Result<void> Client::access(std::span<vfio::Access> accesses) {
  for (const vfio::Access& each : accesses) {
    const vfio::RegionInfo& region = info_.region(each.region);
    CW_CHECK(check(region, each.offset, each.size, each.is_write ? region.writable : region.readable));
  }
  while (!accesses.empty()) {
    const auto some = accesses.first(std::min(accesses.size(), kUnderWay));
    CW_CHECK(pipeline(some));
    accesses = accesses.subspan(some.size());
  }
  return {};
}

/// Sends them all at once and waits for all replies: servers answer in the order in which they are asked, and a good
/// one wakes up once.
Result<void> Client::pipeline(std::span<vfio::Access> accesses) {
  if (!socket_) return gone();
  const std::uint16_t first_id = next_id_;
  Bytes bytes;
  for (vfio::Access& each : accesses) {
    Bytes body = payload(wire::RegionAccess{
        .offset = each.offset, .region = static_cast<std::uint32_t>(vfio::number(each.region)), .count = each.size});
    if (each.is_write) body.insert(body.end(), each.bytes().begin(), each.bytes().end());
    const wire::Header header{
        .id = next_id_++, .command = std::to_underlying(command_of(each)), .size = 0, .flags = 0, .error = 0};
    append(bytes, header, body);
  }
  CW_CHECK(post(command_of(accesses.front()), bytes, {}));
  // One that was refused leaves the others' replies to be taken off the socket.
  Result<void> outcome;
  std::uint16_t id = first_id;
  for (vfio::Access& each : accesses) {
    CW_TRY(const auto reply, await_reply(command_of(each), id++));
    auto done = verdict(reply);
    if (done && !each.is_write) done = take(reply, each.bytes());
    if (!socket_) return done;
    if (!done && outcome) outcome = std::move(done);
  }
  return outcome;
}

Result<void> Client::write(vfio::RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) {
  CW_CHECK(check(info_.region(region), offset, from.size(), info_.region(region).writable));
  Bytes body = payload(wire::RegionAccess{.offset = offset,
                                          .region = static_cast<std::uint32_t>(vfio::number(region)),
                                          .count = static_cast<std::uint32_t>(from.size())});
  body.insert(body.end(), from.begin(), from.end());
  return tell(Command::region_write, body);
}

std::optional<vfio::RegionFile> Client::file_of(vfio::RegionIndex region, vfio::Area area) const {
  const auto& file = files_[vfio::number(region)];
  if (!file) return std::nullopt;
  const bool is_mappable = std::ranges::any_of(info_.region(region).mappable, [&](const vfio::Area& part) {
    return area.offset >= part.offset && area.offset - part.offset <= part.size &&
           area.size <= part.size - (area.offset - part.offset);
  });
  if (!is_mappable) return std::nullopt;
  return vfio::RegionFile{.fd = file->file, .offset = file->offset + area.offset, .size = area.size};
}

Result<void> Client::dma_map(const memory::Region& region) {
  if (!socket_) return gone();
  std::vector<memory::Region> all = map_->regions();
  if (all.size() >= theirs_.max_dma_maps) {
    return fail(Errc::busy, fmt::format("'{}' takes no more than {} DMA maps", info_.name, theirs_.max_dma_maps));
  }
  all.push_back(region);
  CW_TRY(auto map, memory::MemoryMap::make(std::move(all)));
  const wire::DmaMap message{.argsz = sizeof(wire::DmaMap),
                             .flags = wire::kDmaRead | wire::kDmaWrite,
                             .offset = region.offset,
                             .address = region.iova.value(),
                             .size = region.size};
  const OwnedFd* const file = region.file.get();
  CW_CHECK(tell(Command::dma_map, payload(message), std::span(&file, 1)));
  map_ = std::move(map);
  return {};
}

Result<void> Client::dma_unmap(const memory::Region& region) {
  if (!socket_) return gone();
  std::vector<memory::Region> rest = map_->regions();
  if (std::erase_if(rest, [&](const memory::Region& known) { return known.same_as(region); }) == 0) {
    return fail(Errc::not_found, fmt::format("'{}': {} is not mapped", info_.name, region.text()));
  }
  CW_TRY(map_, memory::MemoryMap::make(std::move(rest)));
  const wire::DmaUnmap message{
      .argsz = sizeof(wire::DmaUnmap), .flags = 0, .address = region.iova.value(), .size = region.size};
  return tell(Command::dma_unmap, payload(message));
}

Result<void> Client::set_irqs(std::uint32_t data, std::uint32_t start, std::uint32_t count, Fds fds) {
  const wire::IrqSet message{.argsz = sizeof(wire::IrqSet),
                             .flags = data | wire::kSetActionTrigger,
                             .index = wire::kMsixIndex,
                             .start = start,
                             .count = count};
  return tell(Command::device_set_irqs, payload(message), fds);
}

Result<void> Client::enable_vectors(std::uint32_t count) {
  if (count > info_.vectors) {
    return fail(Errc::invalid_value, fmt::format("'{}' has {} vectors, not {}", info_.name, info_.vectors, count));
  }
  if (vectors_ != 0 || count == 0) CW_CHECK(set_irqs(wire::kSetDataNone, 0, 0));
  vectors_ = 0;
  if (count != 0) CW_CHECK(set_irqs(wire::kSetDataEventfd, 0, count));
  vectors_ = count;
  return {};
}

Result<void> Client::set_vector(std::uint32_t vector, const OwnedFd* event) {
  if (vector >= vectors_) {
    return fail(Errc::invalid_value, fmt::format("'{}': vector {} is not enabled", info_.name, vector));
  }
  return set_irqs(wire::kSetDataEventfd, vector, 1, std::span(&event, event == nullptr ? 0 : 1));
}

Result<void> Client::reset() {
  if (!info_.can_reset) return fail(Errc::not_supported, fmt::format("'{}' cannot be reset", info_.name));
  CW_CHECK(tell(Command::device_reset, {}));
  vectors_ = 0;
  return {};
}

}  // namespace causeway::vfio_user

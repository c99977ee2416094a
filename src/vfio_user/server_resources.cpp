// What a client lends to the function: memory and interrupts.
#include "base/log.h"
#include "vfio_user/server_connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace causeway::vfio_user {

Result<ServerConnection::Reply> ServerConnection::on_dma_map(Message& message) {
  CW_TRY(const auto map, message.head<wire::DmaMap>());
  if (map.size == 0 || map.size - 1 > std::numeric_limits<std::uint64_t>::max() - map.address) {
    return fail(Errc::peer_violation, fmt::format("{:#x}+{:#x} is no range", map.address, map.size));
  }
  if (message.fds.size() > 1) return fail(Errc::peer_violation, fmt::format("{} descriptors", message.fds.size()));
  if (windows_.size() >= kMaxDmaMaps) return fail(Errc::busy, "too many DMA maps");
  const bool overlaps = std::ranges::any_of(windows_, [&](const DmaWindow& window) {
    return map.address <= window.address + (window.size - 1) && window.address <= map.address + (map.size - 1);
  });
  if (overlaps) return fail(Errc::busy, fmt::format("{:#x}+{:#x} is mapped already", map.address, map.size));
  DmaWindow window{.address = map.address, .size = map.size, .region = {}};
  // ROMs and memory without a descriptor hold no rings or buffers; a function that wants them finds nothing there.
  if (!message.fds.empty() && (map.flags & wire::kDmaWrite) != 0) {
    CW_TRY(auto region, memory::Region::map(memory::Iova(map.address), memory::FrontendVa(map.address), map.size,
                                            std::move(message.fds.front()), map.offset));
    CW_CHECK(function_.dma_map(region));
    window.region.emplace(std::move(region));
  }
  windows_.push_back(std::move(window));
  return Reply{};
}

Result<ServerConnection::Reply> ServerConnection::on_dma_unmap(const Message& message) {
  CW_TRY(const auto unmap, message.head<wire::DmaUnmap>());
  if ((unmap.flags & wire::kUnmapDirtyBitmap) != 0) return fail(Errc::not_supported, "dirty pages are not logged");
  Reply reply;
  append(reply.body, unmap);
  if ((unmap.flags & wire::kUnmapAll) != 0) {
    unmap_all();
    return reply;
  }
  const auto window = std::ranges::find_if(
      windows_, [&](const DmaWindow& each) { return each.address == unmap.address && each.size == unmap.size; });
  if (window == windows_.end()) {
    return fail(Errc::not_found, fmt::format("{:#x}+{:#x} is not mapped", unmap.address, unmap.size));
  }
  if (window->region) CW_CHECK(function_.dma_unmap(*window->region));
  windows_.erase(window);
  return reply;
}

void ServerConnection::unmap_all() {
  for (const DmaWindow& window : std::exchange(windows_, {})) {
    if (!window.region) continue;
    if (auto done = function_.dma_unmap(*window.region); !done) log::warn("{}: {}", name_, done.error().text());
  }
}

Result<ServerConnection::Reply> ServerConnection::on_set_irqs(Message& message) {
  CW_TRY(const auto set, message.head<wire::IrqSet>());
  if (set.index != wire::kMsixIndex || (set.flags & wire::kSetActionMask) != wire::kSetActionTrigger) {
    return fail(Errc::not_supported, fmt::format("interrupt {}, flags {:#x}", set.index, set.flags));
  }
  const std::uint32_t data = set.flags & wire::kSetDataMask;
  if (data != wire::kSetDataEventfd && !message.fds.empty()) {
    return fail(Errc::peer_violation, "it comes with descriptors and does not say so");
  }
  if (data == wire::kSetDataNone && set.start == 0 && set.count == 0) {
    disable_vectors();
    return Reply{};
  }
  const std::uint32_t all = function_.info().vectors;
  if (set.start > all || set.count > all - set.start) {
    return fail(Errc::invalid_value, fmt::format("vectors {}+{} of {}", set.start, set.count, all));
  }
  if (data == wire::kSetDataEventfd) {
    CW_CHECK(set_eventfds(set, std::move(message.fds)));
  } else {
    CW_CHECK(trigger(set, data == wire::kSetDataBool ? message.tail(sizeof set) : std::span<const std::byte>()));
  }
  return Reply{};
}

Result<void> ServerConnection::set_eventfds(const wire::IrqSet& set, std::vector<OwnedFd> fds) {
  if (!fds.empty() && fds.size() != set.count) {
    return fail(Errc::peer_violation, fmt::format("{} descriptors for {} vectors", fds.size(), set.count));
  }
  std::vector<EventFd> events;
  for (OwnedFd& fd : fds) {
    CW_TRY(auto event, EventFd::adopt(std::move(fd)));
    events.push_back(std::move(event));
  }
  if (vectors_.empty()) {
    // Clients enable a range first and others later; a vector that nobody wants costs nothing.
    CW_CHECK(function_.enable_vectors(function_.info().vectors));
    vectors_.resize(function_.info().vectors);
  }
  for (std::uint32_t i = 0; i < set.count; ++i) {
    auto& event = vectors_[set.start + i];
    event.reset();
    if (!events.empty()) event.emplace(std::move(events[i]));
    CW_CHECK(function_.set_vector(set.start + i, event ? &event->fd() : nullptr));
  }
  return {};
}

/// The client raises interrupts itself.
Result<void> ServerConnection::trigger(const wire::IrqSet& set, std::span<const std::byte> wanted) const {
  const bool is_chosen = (set.flags & wire::kSetDataMask) == wire::kSetDataBool;
  if (is_chosen && wanted.size() < set.count) return fail(Errc::peer_violation, "too few bytes of data");
  if (set.start + set.count > vectors_.size()) return fail(Errc::invalid_value, "MSI-X is not enabled");
  for (std::uint32_t i = 0; i < set.count; ++i) {
    if (is_chosen && wanted[i] == std::byte{0}) continue;
    if (const auto& event = vectors_[set.start + i]) event->signal();
  }
  return {};
}

void ServerConnection::disable_vectors() {
  if (vectors_.empty()) return;
  vectors_.clear();
  if (auto done = function_.enable_vectors(0); !done) log::warn("{}: {}", name_, done.error().text());
}

}  // namespace causeway::vfio_user

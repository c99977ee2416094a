#include "memory/iotlb.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

namespace causeway::memory {

Result<std::optional<IovaRange>> Iotlb::update(const Translation& translation, const MemoryMap& memory) {
  const auto refuse = [&](std::string_view why) {
    return fail(Errc::peer_violation, fmt::format("translation of {}+{:#x} to front-end address {} {}",
                                                  translation.iova, translation.size, translation.frontend_va, why));
  };
  const std::uint64_t first = translation.iova.value();
  if (translation.size == 0) return refuse("is empty");
  if (first + (translation.size - 1) < first) return refuse("wraps");
  const auto region = std::ranges::find_if(memory.regions(), [&](const Region& own) {
    const std::uint64_t offset = translation.frontend_va.value() - own.frontend_va.value();
    return offset < own.size && translation.size <= own.size - offset;
  });
  if (region == memory.regions().end()) return refuse("leads to no memory region");
  const IovaRange range{.first = translation.iova, .size = translation.size};
  invalidate(range);
  const MemoryMap::Entry fresh{
      .first = first,
      .last = range.last(),
      .host = region->mapping->data() + (translation.frontend_va.value() - region->frontend_va.value()),
      .access = translation.access};
  // Regions may be neighbours in our mapping by chance, and a Device has each at addresses of its own: no run leaves
  // one.
  const std::byte* const start = region->mapping->data();
  const auto continues = [&](const MemoryMap::Entry& low, const MemoryMap::Entry& high) {
    const auto is_inside = [&](const std::byte* host) {
      return std::bit_cast<std::uintptr_t>(host) - std::bit_cast<std::uintptr_t>(start) < region->size;
    };
    return low.last + 1 == high.first && low.host + (low.last - low.first + 1) == high.host &&
           low.access == high.access && is_inside(low.host) && is_inside(high.host);
  };
  auto at = std::ranges::upper_bound(entries_, first, {}, &MemoryMap::Entry::first);
  if (at != entries_.begin() && continues(*std::prev(at), fresh)) {
    --at;
    at->last = fresh.last;
  } else {
    at = entries_.insert(at, fresh);
  }
  if (const auto next = std::next(at); next != entries_.end() && continues(*at, *next)) {
    at->last = next->last;
    entries_.erase(next);
  }
  if (entries_.size() <= kMaxEntries) return std::nullopt;
  auto victim = std::ranges::lower_bound(entries_, hand_, {}, &MemoryMap::Entry::first);
  if (victim == entries_.end()) victim = entries_.begin();
  if (victim->first <= first && first <= victim->last) ++victim;
  if (victim == entries_.end()) victim = entries_.begin();
  const IovaRange forgotten{.first = Iova(victim->first), .size = victim->last - victim->first + 1};
  hand_ = victim->last + 1;
  entries_.erase(victim);
  return forgotten;
}

void Iotlb::invalidate(IovaRange range) {
  const std::uint64_t first = range.first.value(), last = range.last();
  auto from = std::ranges::lower_bound(entries_, first, {}, &MemoryMap::Entry::last);
  const auto to = std::ranges::upper_bound(entries_, last, {}, &MemoryMap::Entry::first);
  if (from >= to) return;
  // What the ends have outside the range stays known.
  std::array<MemoryMap::Entry, 2> rest{};
  std::size_t count = 0;
  if (from->first < first) {
    rest[count] = *from;
    rest[count++].last = first - 1;
  }
  if (const MemoryMap::Entry& end = *std::prev(to); end.last > last) {
    rest[count++] = {
        .first = last + 1, .last = end.last, .host = end.host + (last + 1 - end.first), .access = end.access};
  }
  from = entries_.erase(from, to);
  entries_.insert(from, rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(count));
}

void Iotlb::keep_within(const MemoryMap& memory) {
  std::erase_if(entries_, [&](const MemoryMap::Entry& entry) {
    return std::ranges::none_of(memory.entries_, [&](const MemoryMap::Entry& region) {
      const auto offset = std::bit_cast<std::uintptr_t>(entry.host) - std::bit_cast<std::uintptr_t>(region.host);
      return offset <= region.last - region.first && entry.last - entry.first <= region.last - region.first - offset;
    });
  });
}

std::shared_ptr<const MemoryMap> Iotlb::map(std::shared_ptr<const MemoryMap> memory) const {
  return std::shared_ptr<const MemoryMap>(new MemoryMap(entries_, std::move(memory)));
}

}  // namespace causeway::memory

#include "memory/memory_map.h"

#include <fmt/format.h>

#include <limits>
#include <string_view>

namespace causeway::memory {
namespace {

bool wraps(std::uint64_t first, std::uint64_t size) {
  return size - 1 > std::numeric_limits<std::uint64_t>::max() - first;
}

bool overlap(std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) {
  return a <= b + (b_size - 1) && b <= a + (a_size - 1);
}

}  // namespace

Result<Region> Region::map(Iova iova, FrontendVa frontend_va, std::uint64_t size, OwnedFd file, std::uint64_t offset) {
  Region region{.iova = iova,
                .frontend_va = frontend_va,
                .size = size,
                .offset = offset,
                .identity = {},
                .file = {},
                .mapping = {}};
  if (size == 0) return fail(Errc::peer_violation, fmt::format("memory region {} is empty", region.text()));
  if (wraps(iova.value(), size) || wraps(frontend_va.value(), size)) {
    return fail(Errc::peer_violation, fmt::format("memory region {} wraps", region.text()));
  }
  auto identity = identify(file);
  if (!identity) return fail(std::move(identity).error().context("memory region " + region.text()));
  auto mapping = Mapping::map(file, offset, size);
  if (!mapping) return fail(std::move(mapping).error().context("memory region " + region.text()));
  region.identity = *identity;
  region.mapping = std::move(*mapping);
  region.file = std::make_shared<const OwnedFd>(std::move(file));
  return region;
}

bool Region::same_as(const Region& other) const {
  return iova == other.iova && frontend_va == other.frontend_va && size == other.size && offset == other.offset &&
         identity == other.identity;
}

std::string Region::text() const {
  return fmt::format("{}+{:#x} (front-end address {}, file offset {:#x})", iova, size, frontend_va, offset);
}

MemoryMap::MemoryMap(std::vector<Region> regions) : regions_(std::move(regions)) {
  entries_.reserve(regions_.size());
  for (const Region& region : regions_) {
    entries_.push_back({.first = region.iova.value(),
                        .last = region.iova.value() + (region.size - 1),
                        .host = region.mapping->data(),
                        .access = Access::read_write});
  }
}

std::shared_ptr<const MemoryMap> MemoryMap::empty() {
  return std::shared_ptr<const MemoryMap>(new MemoryMap({}));
}

Result<std::shared_ptr<const MemoryMap>> MemoryMap::make(std::vector<Region> regions) {
  const auto refuse_overlap = [](const Region& a, const Region& b) {
    return fail(Errc::peer_violation, fmt::format("memory regions {} and {} overlap", a.text(), b.text()));
  };
  std::ranges::sort(regions, {}, &Region::frontend_va);
  for (std::size_t i = 1; i < regions.size(); ++i) {
    const auto &low = regions[i - 1], &high = regions[i];
    if (overlap(low.frontend_va.value(), low.size, high.frontend_va.value(), high.size))
      return refuse_overlap(low, high);
  }
  std::ranges::sort(regions, {}, &Region::iova);
  for (std::size_t i = 1; i < regions.size(); ++i) {
    const auto &low = regions[i - 1], &high = regions[i];
    if (overlap(low.iova.value(), low.size, high.iova.value(), high.size)) return refuse_overlap(low, high);
  }
  return std::shared_ptr<const MemoryMap>(new MemoryMap(std::move(regions)));
}

std::vector<Region> MemoryMap::with_known(std::vector<Region> regions) const {
  for (Region& region : regions) {
    const auto known = std::ranges::find_if(regions_, [&](const Region& own) { return own.same_as(region); });
    if (known != regions_.end()) region = *known;
  }
  return regions;
}

const MemoryMap::Entry* MemoryMap::find(std::uint64_t iova) const {
  const auto above = std::ranges::upper_bound(entries_, iova, {}, &Entry::first);
  if (above == entries_.begin()) return nullptr;
  const Entry& entry = *std::prev(above);
  return iova <= entry.last ? &entry : nullptr;
}

std::optional<GuestSpan> MemoryMap::translate(Iova iova, std::uint64_t size, Access access) const {
  const Entry* entry = find(iova.value());
  if (entry == nullptr || size == 0 || !allows(entry->access, access)) return std::nullopt;
  const std::uint64_t offset = iova.value() - entry->first;
  std::uint64_t reach = entry->last - iova.value() + 1;
  // SAFETY of going on into the next region: only where it continues the same run of host addresses.
  const Entry* const end = entries_.data() + entries_.size();
  for (const Entry* next = entry + 1; reach < size && next != end; ++next) {
    const Entry& before = *(next - 1);
    const std::uint64_t length = before.last - before.first + 1;
    if (next->first != before.last + 1 || next->host != before.host + length || !allows(next->access, access)) {
      return std::nullopt;
    }
    reach += next->last - next->first + 1;
  }
  if (reach < size) return std::nullopt;
  return GuestSpan(entry->host + offset, size);
}

std::optional<Iova> MemoryMap::iova_of(FrontendVa address) const {
  for (const Region& region : regions_) {
    const std::uint64_t offset = address.value() - region.frontend_va.value();
    if (offset < region.size) return Iova(region.iova.value() + offset);
  }
  return std::nullopt;
}

Result<MemoryMap::Run> MemoryMap::join(Iova iova, std::uint64_t size, Access access) const {
  const auto refuse = [&](std::string_view why) {
    return fail(Errc::not_supported, fmt::format("{}+{:#x} behind the IOMMU: {}", iova, size, why));
  };
  if (!memory_ || size == 0 || wraps(iova.value(), size)) return refuse("it is not there");
  const std::uint64_t skip = iova.value() % page_size();
  std::vector<Mapping::Piece> pieces;
  for (std::uint64_t at = iova.value() - skip; at < iova.value() + size; at += page_size()) {
    // Of the page at an end, the part that is asked for must be there.
    const std::uint64_t known = std::max(at, iova.value());
    const Entry* const entry = find(known);
    if (entry == nullptr || !allows(entry->access, access)) return refuse("not all of it may be used so");
    const std::byte* const host = entry->host + (known - entry->first) - (known - at);
    const auto region = std::ranges::find_if(memory_->regions_, [&](const Region& own) {
      const auto offset = std::bit_cast<std::uintptr_t>(host) - std::bit_cast<std::uintptr_t>(own.mapping->data());
      return offset < own.size;
    });
    if (region == memory_->regions_.end()) return refuse("it leads out of a memory region");
    const auto offset = std::bit_cast<std::uintptr_t>(host) - std::bit_cast<std::uintptr_t>(region->mapping->data());
    pieces.push_back({.file = *region->file, .offset = region->offset + offset, .size = page_size()});
  }
  auto mapping = Mapping::map_together(pieces);
  if (!mapping) return refuse(mapping.error().what);
  return Run{.bytes = GuestSpan((*mapping)->data() + skip, size), .own = *std::move(mapping)};
}

bool MemoryMap::list_missing(Iova iova, std::uint64_t size, Access access, std::vector<Miss>& misses) const {
  const std::uint64_t end = iova.value() + (size - 1);
  for (std::uint64_t at = iova.value(); size != 0 && at <= end;) {
    std::uint64_t last = at | (kIommuPage - 1);
    if (const Entry* entry = find(at)) {
      if (!allows(entry->access, access)) return false;
      last = entry->last;
    } else if (const Miss miss{.at = Iova(at & ~(kIommuPage - 1)), .access = access};
               misses.size() < kMaxMisses && std::ranges::find(misses, miss) == misses.end()) {
      misses.push_back(miss);
    }
    if (last >= end || misses.size() == kMaxMisses) break;
    at = last + 1;
  }
  return true;
}

bool MemoryMap::is_lost() const {
  if (memory_) return memory_->is_lost();
  return std::ranges::any_of(regions_, [](const Region& region) { return region.mapping->is_lost(); });
}

std::optional<Iova> Translator::iova_of_slowly(const GuestSpan& piece) {
  for (const MemoryMap::Entry& entry : map_->entries_) {
    const auto offset = std::bit_cast<std::uintptr_t>(piece.base_) - std::bit_cast<std::uintptr_t>(entry.host);
    const std::uint64_t size = entry.last - entry.first + 1;
    if (offset >= size || piece.size() > size - offset) continue;
    hit_ = entry;
    hit_size_ = size;
    return Iova(entry.first + offset);
  }
  return std::nullopt;
}

}  // namespace causeway::memory

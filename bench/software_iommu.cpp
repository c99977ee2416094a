#include "software_iommu.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "support/guest_memory.h"

namespace causeway::bench {
namespace {

using memory::Iova, memory::IovaRange;
using testing::GuestMemory;

/// Between the guest's addresses and those of the driver's that stay mapped.
constexpr std::uint64_t kApart = 0x3'0000'0000;
/// Where a burst's mappings lie: each in the next of so many places, with a gap that keeps neighbours apart.
constexpr std::uint64_t kFresh = 0x100'0000'0000;
constexpr std::uint64_t kFreshPlaces = 1 << 16;

void require(const Result<void>& result) {
  if (!result) throw std::runtime_error(result.error().text());
}

constexpr bool contains(const IovaRange& range, Iova at) {
  return range.first <= at && at.value() <= range.last();
}

}  // namespace

SoftwareIommu::SoftwareIommu(port::Port& port, Mappings mappings) : port_(port), mappings_(mappings) {
  require(port_.attach(*this));
}

Iova SoftwareIommu::at_for_ever(Iova memory) const {
  return translates() ? Iova(memory.value() + kApart) : memory;
}

void SoftwareIommu::tell_for_ever(const IovaRange& memory) {
  if (!translates()) return;
  const IovaRange at{.first = at_for_ever(memory.first), .size = memory.size};
  tell({.at = at, .memory = memory.first}, at);
}

Iova SoftwareIommu::map(const IovaRange& memory) {
  if (!is_strict()) return at_for_ever(memory.first);
  const std::uint64_t stride = memory.size + memory::MemoryMap::kIommuPage;
  const Iova at(kFresh + serial_++ % kFreshPlaces * stride);
  mapped_.push_back({.at = {.first = at, .size = memory.size}, .memory = memory.first});
  if (mappings_ == Mappings::pushed) tell(mapped_.back(), mapped_.back().at);
  return at;
}

void SoftwareIommu::unmap(Iova at) {
  if (!is_strict()) return;
  const auto found = std::ranges::find(mapped_, at, [](const Mapped& mapped) { return mapped.at.first; });
  if (found == mapped_.end()) throw std::runtime_error("what is unmapped was not mapped");
  require(port_.invalidate_translations(found->at));
  mapped_.erase(found);
}

void SoftwareIommu::answer() {
  // An answer may make the port ask for more.
  for (const memory::Miss& miss : std::exchange(asked_, {})) {
    const auto found =
        std::ranges::find_if(mapped_, [&](const Mapped& mapped) { return contains(mapped.at, miss.at); });
    // A question may come too late, or be of nothing that is mapped: then there is no answer, as QEMU gives none.
    if (found == mapped_.end()) continue;
    if (mappings_ == Mappings::asked_by_page) {
      tell(*found, {.first = miss.at, .size = memory::MemoryMap::kIommuPage});
    } else if (!std::exchange(found->is_told, true)) {
      tell(*found, found->at);
    }
  }
  for (Mapped& mapped : mapped_) mapped.is_told = false;
}

void SoftwareIommu::tell(const Mapped& mapped, const IovaRange& part) {
  const std::uint64_t offset =
      mapped.memory.value() + (part.first.value() - mapped.at.first.value()) - GuestMemory::kBase;
  require(port_.update_translation({.iova = part.first,
                                    .size = part.size,
                                    .frontend_va = memory::FrontendVa(GuestMemory::kFrontendBase + offset),
                                    .access = memory::Access::read_write}));
}

}  // namespace causeway::bench

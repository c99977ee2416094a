#include "port/shadow_ring.h"

#include "base/mapping.h"

#include <bit>

namespace causeway::port {
namespace {

/// Each area begins a cache line of its own.
constexpr std::uint64_t after(std::uint64_t begin, std::size_t bytes) {
  return (begin + bytes + 63) / 64 * 64;
}

}  // namespace

Result<ShadowRing> ShadowRing::make(const std::string& name, virtio::FeatureSet features, std::uint16_t entries,
                                    memory::Iova at) {
  const auto layout = virtio::layout_of(features);
  CW_TRY(const auto size,
         virtio::QueueSize::make(layout, layout == virtio::Layout::split ? std::bit_floor(std::uint32_t{entries})
                                                                         : std::uint32_t{entries}));
  const auto sizes = virtio::RingAreaSizes::of(layout, size);
  const std::uint64_t available = after(0, sizes.descriptors.bytes);
  const std::uint64_t used = after(available, sizes.available.bytes);
  const std::uint64_t tables = after(used, sizes.used.bytes);
  const bool is_indirect = features.has(virtio::Feature::indirect_desc);
  const std::uint64_t end = tables + (is_indirect ? virtio::indirect_bytes(size.entries(), kTableEntries) : 0);
  const std::uint64_t bytes = (end + page_size() - 1) / page_size() * page_size();

  CW_TRY(auto file, make_memfd(name, bytes));
  // A front-end's addresses are those of a user process; ours lie where it has none.
  constexpr std::uint64_t kOutsideUserSpace = 1ULL << 63;
  CW_TRY(auto region,
         memory::Region::map(at, memory::FrontendVa(at.value() | kOutsideUserSpace), bytes, std::move(file), 0));
  CW_TRY(auto map, memory::MemoryMap::make({region}));
  const auto place = [at](std::uint64_t offset) { return memory::Iova(at.value() + offset); };
  std::optional<virtio::IndirectArea> area;
  if (is_indirect) area.emplace(place(tables), kTableEntries);
  return ShadowRing{.config = {.size = size,
                               .descriptors = at,
                               .available = place(available),
                               .used = place(used),
                               .features = features,
                               .start = virtio::QueueState::initial(layout)},
                    .tables = area,
                    .region = std::move(region),
                    .map = std::move(map)};
}

}  // namespace causeway::port

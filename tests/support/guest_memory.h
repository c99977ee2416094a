// Guest memory without a guest: memory files mapped as regions, and a place for rings and buffers in them.
#pragma once

#include "base/owned_fd.h"
#include "memory/memory_map.h"
#include "virtio/ring.h"

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace causeway::testing {

/// A value, or an exception with the error's text, which fails the test.
template <class T>
T value_or_die(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}

/// One region of one memory file at `iova`.
inline memory::Region make_region(std::uint64_t iova, std::uint64_t size, std::uint64_t frontend_va) {
  auto file = value_or_die(make_memfd("guest", size));
  return value_or_die(
      memory::Region::map(memory::Iova(iova), memory::FrontendVa(frontend_va), size, std::move(file), 0));
}

/// Regions of equal size, one behind the other in guest addresses, each a file of its own; hands out places in them.
class GuestMemory {
 public:
  static constexpr std::uint64_t kBase = 0x4000'0000;
  static constexpr std::uint64_t kFrontendBase = 0x7f00'0000'0000;

  explicit GuestMemory(std::uint64_t region_size = 4 << 20, std::size_t regions = 1) {
    std::vector<memory::Region> all;
    for (std::size_t i = 0; i < regions; ++i) {
      all.push_back(make_region(kBase + i * region_size, region_size, kFrontendBase + i * region_size));
    }
    map_ = value_or_die(memory::MemoryMap::make(std::move(all)));
  }

  const std::shared_ptr<const memory::MemoryMap>& map() const { return map_; }
  /// The next free place, aligned to 64 bytes.
  memory::Iova allocate(std::uint64_t bytes) {
    const memory::Iova place(kBase + used_);
    used_ += (bytes + 63) / 64 * 64;
    return place;
  }
  memory::GuestSpan at(memory::Iova iova, std::uint64_t bytes) const {
    const auto span = map_->translate(iova, bytes);
    if (!span) throw std::runtime_error("not in guest memory");
    return *span;
  }
  /// Places a ring of the layout that `features` name.
  virtio::RingConfig make_ring(std::uint32_t entries, virtio::FeatureSet features = {}) {
    const auto layout = virtio::layout_of(features);
    const auto size = value_or_die(virtio::QueueSize::make(layout, entries));
    const auto sizes = virtio::RingAreaSizes::of(layout, size);
    return {.size = size,
            .descriptors = allocate(sizes.descriptors.bytes),
            .available = allocate(sizes.available.bytes),
            .used = allocate(sizes.used.bytes),
            .features = features,
            .start = virtio::QueueState::initial(layout)};
  }

 private:
  std::shared_ptr<const memory::MemoryMap> map_;
  std::uint64_t used_ = 0;
};

}  // namespace causeway::testing

// The memory a device may use: regions, and the translation of the driver's addresses.
#pragma once

#include "base/mapping.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "memory/address.h"
#include "memory/guest_span.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace causeway::memory {

/// One piece of guest memory: a part of a file, seen at three addresses. Value type; mapping and file are shared.
struct Region {
  Iova iova;               ///< first address the driver uses for it
  FrontendVa frontend_va;  ///< first address the front-end uses for it
  std::uint64_t size;      ///< bytes, > 0
  std::uint64_t offset;    ///< of its first byte in `file`
  FileIdentity identity;
  std::shared_ptr<const OwnedFd> file;
  std::shared_ptr<const Mapping> mapping;

  /// Maps the region. Errc::peer_violation: empty, wraps, or not inside the file.
  static Result<Region> map(Iova iova, FrontendVa frontend_va, std::uint64_t size, OwnedFd file, std::uint64_t offset);

  /// Where this process has it: for a front-end that must know.
  std::uint64_t host_address() const { return std::bit_cast<std::uintptr_t>(mapping->data()); }
  /// Same addresses and same memory behind them.
  bool same_as(const Region& other) const;
  /// "0x100000+0x40000000 (front-end 0x7f..., offset 0x0)".
  std::string text() const;
};

/// An address that was needed, and that the IOMMU's owner must be asked for. Value type.
struct Miss {
  Iova at;        ///< the page of it
  Access access;  ///< what was to be done there
  bool operator==(const Miss&) const = default;
};

/// A set of regions that overlap nowhere; or, behind an IOMMU, what is known of it (memory/iotlb.h). Immutable: a
/// change makes a new map. Thread: any.
class MemoryMap {
 public:
  static std::shared_ptr<const MemoryMap> empty();
  /// Errc::peer_violation when two regions overlap in IOVA or in front-end addresses; the text names both.
  static Result<std::shared_ptr<const MemoryMap>> make(std::vector<Region> regions);

  /// Empty where it is translated.
  const std::vector<Region>& regions() const { return regions_; }
  /// Addresses are those before an IOMMU: one that is not in the map may be known later.
  bool is_translated() const { return memory_ != nullptr; }
  /// The memory that the addresses of `map` lead to: behind the IOMMU where it is translated, else itself.
  static const std::shared_ptr<const MemoryMap>& behind(const std::shared_ptr<const MemoryMap>& map) {
    return map->is_translated() ? map->memory_ : map;
  }
  /// The same regions, each the map's own where it has one like that, so that what uses that goes on.
  std::vector<Region> with_known(std::vector<Region> regions) const;
  /// The `size` bytes at `iova`, when they lie in one region (or in regions that are neighbours in our mapping too).
  std::optional<GuestSpan> translate(Iova iova, std::uint64_t size, Access access = Access::read) const;
  /// The same where a map that is translated has them in pieces: a mapping of its own that shows them as one run, to be
  /// kept with the span. Errc::not_supported: something is missing, must not be used so, or cannot be mapped so.
  struct Run {
    GuestSpan bytes;
    std::shared_ptr<const Mapping> own;
  };
  Result<Run> join(Iova iova, std::uint64_t size, Access access) const;
  /// Of a map that is translated: appends what of `size` bytes at `iova` is not in it, page by page, up to kMaxMisses
  /// in all and none twice. False: something of it is, but must not be used so.
  bool list_missing(Iova iova, std::uint64_t size, Access access, std::vector<Miss>& misses) const;
  static constexpr std::size_t kMaxMisses = 128;
  /// What an IOMMU translates at once, and is asked for at once.
  static constexpr std::uint64_t kIommuPage = 4096;
  /// The driver's address of a front-end address; nothing when no region holds it.
  std::optional<Iova> iova_of(FrontendVa address) const;
  /// True once one of the files was truncated under us.
  bool is_lost() const;

 private:
  friend class Translator;
  friend class Iotlb;
  struct Entry {
    std::uint64_t first;
    std::uint64_t last;  // inclusive: a region may end at the top of the address space
    std::byte* host;
    Access access;
  };
  explicit MemoryMap(std::vector<Region> regions);
  MemoryMap(std::vector<Entry> entries, std::shared_ptr<const MemoryMap> memory)
      : entries_(std::move(entries)), memory_(std::move(memory)) {}
  const Entry* find(std::uint64_t iova) const;

  std::vector<Region> regions_;              // in order of IOVA
  std::vector<Entry> entries_;               // the same, for the search
  std::shared_ptr<const MemoryMap> memory_;  // behind the IOMMU, where there is one
};

/// Translates for one queue, with the region of the last hit kept at hand. Not shared between threads. Cost of a hit:
/// two comparisons.
class Translator {
 public:
  explicit Translator(std::shared_ptr<const MemoryMap> map) : map_(std::move(map)) {}

  /// Appends the pieces of host memory behind `size` bytes at `iova`, through `add(GuestSpan)`; false when a byte of it
  /// is in no region, or must not be used so (then some pieces may have been added).
  template <class Add>
  bool translate(std::uint64_t iova, std::uint64_t size, Access access, Add&& add) {
    // One subtraction covers both "too low" and "too high", since what lies below wraps to a huge offset.
    const std::uint64_t offset = iova - hit_.first;
    if (offset < hit_size_ && size <= hit_size_ - offset) [[likely]] {
      add(GuestSpan(hit_.host + offset, size));
      return true;
    }
    return translate_slowly(iova, size, access, add);
  }

  /// The bytes in one piece, when they lie in the region of the last hit.
  std::optional<GuestSpan> translate_at_once(std::uint64_t iova, std::uint64_t size) const {
    const std::uint64_t offset = iova - hit_.first;
    if (offset < hit_size_ && size <= hit_size_ - offset) [[likely]]
      return GuestSpan(hit_.host + offset, size);
    return std::nullopt;
  }

  /// The other way round: the address at which the map has `piece`, of a size above 0, which was translated by a map of
  /// the same memory. Nothing: no region holds it. Cost of a hit as for `translate`.
  std::optional<Iova> iova_of(const GuestSpan& piece) {
    const auto offset = std::bit_cast<std::uintptr_t>(piece.base_) - std::bit_cast<std::uintptr_t>(hit_.host);
    if (offset < hit_size_ && piece.size() <= hit_size_ - offset) [[likely]]
      return Iova(hit_.first + offset);
    return iova_of_slowly(piece);
  }

  const std::shared_ptr<const MemoryMap>& map() const { return map_; }

 private:
  std::optional<Iova> iova_of_slowly(const GuestSpan& piece);
  template <class Add>
  bool translate_slowly(std::uint64_t iova, std::uint64_t size, Access access, Add& add) {
    while (size != 0) {
      const MemoryMap::Entry* entry = map_->find(iova);
      if (entry == nullptr || !allows(entry->access, access)) return false;
      // Behind an IOMMU each entry has its own access, which a hit is not asked for.
      if (!map_->is_translated()) {
        hit_ = *entry;
        hit_size_ = entry->last - entry->first + 1;
      }
      const std::uint64_t here = std::min(size, entry->last - iova + 1);
      add(GuestSpan(entry->host + (iova - entry->first), here));
      size -= here;
      iova += here;
      if (size != 0 && iova == 0) return false;  // went past the top of the address space
    }
    return true;
  }

  std::shared_ptr<const MemoryMap> map_;
  MemoryMap::Entry hit_{.first = 0, .last = 0, .host = nullptr, .access = Access::none};
  std::uint64_t hit_size_ = 0;
};

}  // namespace causeway::memory

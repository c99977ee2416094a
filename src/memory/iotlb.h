// What is known of an IOMMU between the driver and us.
// Spec: QEMU docs/interop/vhost-user.rst, "IOMMU support"; Linux include/uapi/linux/vhost_types.h.
#pragma once

#include "base/result.h"
#include "memory/memory_map.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace causeway::memory {

/// What the owner of the IOMMU says of some addresses. Not checked yet. Value type.
struct Translation {
  Iova iova;
  std::uint64_t size;      ///< bytes
  FrontendVa frontend_va;  ///< where the front-end has the memory
  Access access;
};

/// A bounded cache of translations, filled by answers to misses, from which maps for queues are made. Runs that
/// continue each other are one entry. Thread: control.
class Iotlb {
 public:
  static constexpr std::size_t kMaxEntries = 8192;

  /// Takes a translation, in the place of what was known of its addresses. Returns what it had to forget to have room.
  /// Errc::peer_violation: empty, wraps, or not inside one region of `memory`.
  Result<std::optional<IovaRange>> update(const Translation& translation, const MemoryMap& memory);
  /// Forgets all of a range, and nothing else.
  void invalidate(IovaRange range);
  void clear() { entries_.clear(); }
  /// Forgets what leads to memory that is no longer in `memory`.
  void keep_within(const MemoryMap& memory);

  /// What is known, as a map. `memory`: that which it leads to.
  std::shared_ptr<const MemoryMap> map(std::shared_ptr<const MemoryMap> memory) const;
  std::size_t size() const { return entries_.size(); }

 private:
  std::vector<MemoryMap::Entry> entries_;  // in order of IOVA, overlapping nowhere
  std::uint64_t hand_ = 0;                 // where the next is sought that can be forgotten
};

}  // namespace causeway::memory

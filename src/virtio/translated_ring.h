// The device side of a ring that lies before an IOMMU: it waits for addresses that are not known.
#pragma once

#include "base/result.h"
#include "memory/address.h"
#include "memory/memory_map.h"
#include "virtio/chain.h"
#include "virtio/ring.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace causeway::virtio {

/// A DeviceRing over another whose map is translated (memory/iotlb.h). A chain that the map cannot translate stays in
/// the ring, with all behind it, until the map is replaced; `take_misses` says what is to be asked for.
/// `kHolds`: its user keeps chains for longer than the map may stay, and asks whether it still has some of a range. A
/// driver that makes a chain available which its user has breaks the ring: what is taken at that moment is not worked.
/// Thread: as for the ring.
template <class Ring, bool kHolds>
class TranslatedRing {
 public:
  static Result<TranslatedRing> start(const RingConfig& config, std::shared_ptr<const memory::MemoryMap> map,
                                      Remember remember = Remember::nothing) {
    CW_TRY(auto ring, Ring::start(config, std::move(map), remember));
    return TranslatedRing(std::move(ring));
  }

  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map) {
    is_waiting_ = false;
    ++renewals_;
    return ring_.replace_map(std::move(map));
  }
  /// Nothing is taken before the map is replaced.
  bool is_waiting() const { return is_waiting_; }
  /// How often the map was replaced: what was missed before the last time is of no interest any more.
  std::uint64_t renewals() const { return renewals_; }

  bool has_available() { return !is_waiting_ && ring_.has_available(); }
  std::uint16_t take(ChainBatch& batch, std::uint16_t limit) {
    if (is_waiting_) return 0;
    const std::size_t before = batch.size();
    const std::uint16_t count = ring_.take(batch, limit);
    if constexpr (kHolds) {
      for (const Chain& chain : batch.chains().subspan(before))
        hold(chain.id, batch.all(chain), batch.addresses(chain));
    }
    misses_ = ring_.take_misses();
    is_waiting_ = !misses_.empty();
    return count;
  }
  std::vector<memory::Miss> take_misses() { return std::exchange(misses_, {}); }
  void untake(std::span<const Chain> chains) {
    if constexpr (kHolds) {
      for (const Chain& chain : chains) held_[chain.id].clear();
    }
    ring_.untake(chains);
  }
  /// Whether a chain that is taken and not used has a byte in the range.
  bool holds(const memory::IovaRange& range) const
    requires(kHolds)
  {
    return std::ranges::any_of(held_, [&](const auto& buffers) {
      return std::ranges::any_of(buffers, [&](const memory::IovaRange& held) { return held.overlaps(range); });
    });
  }

  void use(const Chain& chain, std::uint32_t written) {
    if constexpr (kHolds) held_[chain.id].clear();
    ring_.use(chain, written);
  }
  void use_unwritten(std::span<const Chain> chains) {
    if constexpr (kHolds) {
      for (const Chain& chain : chains) held_[chain.id].clear();
    }
    ring_.use_unwritten(chains);
  }
  void mark(const Chain& chain) { ring_.mark(chain); }
  void unmark(const Chain& chain) { ring_.unmark(chain); }
  bool publish() { return ring_.publish(); }
  /// What waits for an address is there already: no kick is needed to look again.
  bool arm() { return !is_waiting_ && ring_.arm(); }
  void disarm() { ring_.disarm(); }
  RingFault fault() const { return ring_.fault(); }
  void set_fault(RingFault fault) { ring_.set_fault(fault); }
  QueueState state(std::span<const Chain> outstanding = {}) const { return ring_.state(outstanding); }

 private:
  explicit TranslatedRing(Ring ring) : ring_(std::move(ring)) {}
  void hold(std::uint16_t id, std::span<const memory::GuestSpan> segments, std::span<const memory::Iova> addresses) {
    // Of a packed ring any number may be an id.
    if (id >= held_.size()) held_.resize(std::size_t{id} + 1);
    // Two of one id could not be told apart when one of them is used.
    if (!held_[id].empty()) return ring_.set_fault(RingFault::chain_in_flight);
    for (std::size_t i = 0; i < segments.size(); ++i) {
      held_[id].push_back({.first = addresses[i], .size = segments[i].size()});
    }
  }

  Ring ring_;
  bool is_waiting_ = false;
  std::uint64_t renewals_ = 0;
  std::vector<memory::Miss> misses_;
  std::vector<std::vector<memory::IovaRange>> held_;  // by chain id
};

}  // namespace causeway::virtio

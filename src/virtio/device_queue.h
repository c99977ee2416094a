// The device side of a virtqueue of whichever layout was negotiated.
#pragma once

#include "virtio/logged_ring.h"
#include "virtio/packed_device_queue.h"
#include "virtio/split_device_queue.h"
#include "virtio/translated_ring.h"

#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace causeway::virtio {

/// What a user of either layout may rely on; the members are described at SplitDeviceQueue.
template <class Ring>
concept DeviceRing = requires(Ring ring, const Ring constant, const RingConfig config, ChainBatch batch,
                              std::shared_ptr<const memory::MemoryMap> map, std::span<const Chain> chains) {
  { Ring::start(config, map) } -> std::same_as<Result<Ring>>;
  { ring.replace_map(map) } -> std::same_as<Result<void>>;
  { ring.has_available() } -> std::same_as<bool>;
  { ring.take(batch, std::uint16_t{}) } -> std::same_as<std::uint16_t>;
  { ring.untake(chains) } -> std::same_as<void>;
  { ring.use_unwritten(chains) } -> std::same_as<void>;
  { ring.publish() } -> std::same_as<bool>;
  { ring.arm() } -> std::same_as<bool>;
  { ring.disarm() } -> std::same_as<void>;
  { constant.fault() } -> std::same_as<RingFault>;
  { constant.state(chains) } -> std::same_as<QueueState>;
};
/// Its user says how many bytes of a chain it has written, and no more.
template <class Ring>
concept BlindDeviceRing = DeviceRing<Ring> && requires(Ring ring, Chain chain, std::uint32_t written) {
  { ring.use(chain, written) } -> std::same_as<void>;
};
/// Its user says which segments they are too.
template <class Ring>
concept ExactDeviceRing = DeviceRing<Ring> && requires(Ring ring, Chain chain, std::uint32_t written,
                                                       std::span<const memory::GuestSpan> writable) {
  { ring.use(chain, written, writable) } -> std::same_as<void>;
};
static_assert(BlindDeviceRing<SplitDeviceQueue> && BlindDeviceRing<PackedDeviceQueue>);
static_assert(ExactDeviceRing<SplitDeviceQueue> && ExactDeviceRing<PackedDeviceQueue>);
static_assert(BlindDeviceRing<LoggedRing<SplitDeviceQueue, Extent::unknown>>);
static_assert(ExactDeviceRing<LoggedRing<SplitDeviceQueue, Extent::exact>>);

/// Calls `work.operator()<Ring>()` with the DeviceRing that a configuration wants, whose user knows of its writes what
/// `kExtent` says: for users that are templates of it.
template <Extent kExtent, class Work>
auto with_device_ring(const RingConfig& config, Work&& work) {
  if (config.layout() == Layout::packed) {
    return config.log ? work.template operator()<LoggedRing<PackedDeviceQueue, kExtent>>()
                      : work.template operator()<PackedDeviceQueue>();
  }
  return config.log ? work.template operator()<LoggedRing<SplitDeviceQueue, kExtent>>()
                    : work.template operator()<SplitDeviceQueue>();
}

/// It may have to wait for addresses.
template <class Ring>
concept TranslatesRing = requires(const std::remove_cvref_t<Ring> ring) {
  { ring.is_waiting() } -> std::same_as<bool>;
};

/// The same for a ring that may lie before an IOMMU, as `map` says; see TranslatedRing for `kHolds`.
template <Extent kExtent, bool kHolds, class Work>
auto with_translated_device_ring(const RingConfig& config, const memory::MemoryMap& map, Work&& work) {
  if (!map.is_translated()) return with_device_ring<kExtent>(config, std::forward<Work>(work));
  return config.layout() == Layout::packed
             ? work.template operator()<TranslatedRing<LoggedRing<PackedDeviceQueue, kExtent>, kHolds>>()
             : work.template operator()<TranslatedRing<LoggedRing<SplitDeviceQueue, kExtent>, kHolds>>();
}

/// One or the other, chosen at start: for users whose speed does not hang on a branch per call. Hot loops are templates
/// over DeviceRing instead.
class DeviceQueue {
 public:
  /// `remember`: whether `state` will be asked for with chains outstanding.
  static Result<DeviceQueue> start(const RingConfig& config, std::shared_ptr<const memory::MemoryMap> map,
                                   Remember remember = Remember::nothing) {
    const memory::MemoryMap& known = *map;
    return with_translated_device_ring<Extent::unknown, true>(config, known, [&]<class Ring>() -> Result<DeviceQueue> {
      CW_TRY(auto ring, Ring::start(config, std::move(map), remember));
      return DeviceQueue(AnyRing(std::move(ring)));
    });
  }

  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map) {
    return std::visit([&](auto& ring) { return ring.replace_map(std::move(map)); }, ring_);
  }
  bool has_available() {
    return std::visit([](auto& ring) { return ring.has_available(); }, ring_);
  }
  std::uint16_t take(ChainBatch& batch, std::uint16_t limit) {
    return std::visit(
        [&](auto& ring) {
          const std::size_t before = batch.size();
          const std::uint16_t count = ring.take(batch, limit);
          // What is taken again is in the record already.
          for (const Chain& chain : batch.chains().subspan(before)) {
            if (chain.again == 0) ring.mark(chain);
          }
          return count;
        },
        ring_);
  }
  void untake(std::span<const Chain> chains) {
    std::visit([&](auto& ring) { ring.untake(chains); }, ring_);
  }
  void use_unwritten(std::span<const Chain> chains) {
    std::visit(
        [&](auto& ring) {
          ring.use_unwritten(chains);
          for (const Chain& chain : chains) ring.unmark(chain);
        },
        ring_);
  }
  void use(const Chain& chain, std::uint32_t written) {
    std::visit(
        [&](auto& ring) {
          ring.use(chain, written);
          ring.unmark(chain);
        },
        ring_);
  }
  bool publish() {
    return std::visit([](auto& ring) { return ring.publish(); }, ring_);
  }
  bool arm() {
    return std::visit([](auto& ring) { return ring.arm(); }, ring_);
  }
  void disarm() {
    std::visit([](auto& ring) { ring.disarm(); }, ring_);
  }

  // Before an IOMMU, as TranslatedRing has it; elsewhere nothing is ever missed.
  bool is_waiting() const {
    return ask_translated(false, [](const auto& ring) { return ring.is_waiting(); });
  }
  std::uint64_t renewals() const {
    return ask_translated(std::uint64_t{0}, [](const auto& ring) { return ring.renewals(); });
  }
  std::vector<memory::Miss> take_misses() {
    return std::visit([](auto& ring) { return ring.take_misses(); }, ring_);
  }
  bool holds(const memory::IovaRange& range) const {
    return ask_translated(false, [&](const auto& ring) { return ring.holds(range); });
  }

  RingFault fault() const {
    return std::visit([](const auto& ring) { return ring.fault(); }, ring_);
  }
  void set_fault(RingFault fault) {
    std::visit([&](auto& ring) { ring.set_fault(fault); }, ring_);
  }
  QueueState state(std::span<const Chain> outstanding = {}) const {
    return std::visit([&](const auto& ring) { return ring.state(outstanding); }, ring_);
  }

 private:
  template <class Ring>
  using Logged = LoggedRing<Ring, Extent::unknown>;
  template <class Ring>
  using Translated = TranslatedRing<Logged<Ring>, true>;
  using AnyRing = std::variant<SplitDeviceQueue, PackedDeviceQueue, Logged<SplitDeviceQueue>, Logged<PackedDeviceQueue>,
                               Translated<SplitDeviceQueue>, Translated<PackedDeviceQueue>>;
  template <class Answer, class Question>
  Answer ask_translated(Answer otherwise, Question question) const {
    return std::visit(
        [&](const auto& ring) {
          if constexpr (TranslatesRing<decltype(ring)>) return question(ring);
          return otherwise;
        },
        ring_);
  }

  explicit DeviceQueue(AnyRing ring) : ring_(std::move(ring)) {}
  AnyRing ring_;
};

}  // namespace causeway::virtio

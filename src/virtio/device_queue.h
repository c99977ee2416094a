// The device side of a virtqueue of whichever layout was negotiated.
#pragma once

#include "virtio/logged_ring.h"
#include "virtio/packed_device_queue.h"
#include "virtio/split_device_queue.h"

#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <variant>

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

/// One or the other, chosen at start: for users whose speed does not hang on a branch per call. Hot loops are templates
/// over DeviceRing instead.
class DeviceQueue {
 public:
  /// `remember`: whether `state` will be asked for with chains outstanding.
  static Result<DeviceQueue> start(const RingConfig& config, std::shared_ptr<const memory::MemoryMap> map,
                                   Remember remember = Remember::nothing) {
    return with_device_ring<Extent::unknown>(config, [&]<class Ring>() -> Result<DeviceQueue> {
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
  using AnyRing = std::variant<SplitDeviceQueue, PackedDeviceQueue, LoggedRing<SplitDeviceQueue, Extent::unknown>,
                               LoggedRing<PackedDeviceQueue, Extent::unknown>>;
  explicit DeviceQueue(AnyRing ring) : ring_(std::move(ring)) {}
  AnyRing ring_;
};

}  // namespace causeway::virtio

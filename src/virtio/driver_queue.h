// The driver side of a virtqueue of whichever layout was negotiated.
#pragma once

#include "virtio/packed_driver_queue.h"
#include "virtio/split_driver_queue.h"

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <variant>

namespace causeway::virtio {

/// What a user of either layout may rely on; the members are described at SplitDriverQueue.
template <class Ring>
concept DriverRing = requires(Ring ring, const Ring constant, const RingConfig config,
                              const std::shared_ptr<const memory::MemoryMap>& map,
                              std::span<const DriverBuffer> buffers, std::optional<IndirectArea> area) {
  { Ring::start(config, map, area) } -> std::same_as<Result<Ring>>;
  { ring.add(buffers, buffers, std::uint64_t{}) } -> std::same_as<bool>;
  { ring.publish() } -> std::same_as<bool>;
  { ring.reap() } -> std::same_as<std::optional<UsedChain>>;
  { ring.arm() } -> std::same_as<bool>;
  { ring.disarm() } -> std::same_as<void>;
  { constant.free_descriptors() } -> std::same_as<std::uint16_t>;
  { constant.in_flight() } -> std::same_as<std::uint16_t>;
  { constant.is_broken() } -> std::same_as<bool>;
};
static_assert(DriverRing<SplitDriverQueue> && DriverRing<PackedDriverQueue>);

/// One or the other, chosen at start. A driver whose speed hangs on a branch per call is a template over DriverRing.
class DriverQueue {
 public:
  static Result<DriverQueue> start(const RingConfig& config, const std::shared_ptr<const memory::MemoryMap>& map,
                                   std::optional<IndirectArea> indirect_area = std::nullopt) {
    if (config.layout() == Layout::packed) {
      CW_TRY(auto ring, PackedDriverQueue::start(config, map, indirect_area));
      return DriverQueue(std::move(ring));
    }
    CW_TRY(auto ring, SplitDriverQueue::start(config, map, indirect_area));
    return DriverQueue(std::move(ring));
  }

  bool add(std::span<const DriverBuffer> readable, std::span<const DriverBuffer> writable, std::uint64_t token) {
    return std::visit([&](auto& ring) { return ring.add(readable, writable, token); }, ring_);
  }
  bool publish() {
    return std::visit([](auto& ring) { return ring.publish(); }, ring_);
  }
  std::optional<UsedChain> reap() {
    return std::visit([](auto& ring) { return ring.reap(); }, ring_);
  }
  bool arm() {
    return std::visit([](auto& ring) { return ring.arm(); }, ring_);
  }
  void disarm() {
    std::visit([](auto& ring) { ring.disarm(); }, ring_);
  }
  std::uint16_t free_descriptors() const {
    return std::visit([](const auto& ring) { return ring.free_descriptors(); }, ring_);
  }
  std::uint16_t in_flight() const {
    return std::visit([](const auto& ring) { return ring.in_flight(); }, ring_);
  }
  bool is_broken() const {
    return std::visit([](const auto& ring) { return ring.is_broken(); }, ring_);
  }

 private:
  explicit DriverQueue(SplitDriverQueue ring) : ring_(std::move(ring)) {}
  explicit DriverQueue(PackedDriverQueue ring) : ring_(std::move(ring)) {}
  std::variant<SplitDriverQueue, PackedDriverQueue> ring_;
};

}  // namespace causeway::virtio

// Descriptor chains, translated: what a device works on.
#pragma once

#include "memory/address.h"
#include "memory/guest_span.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace causeway::virtio {

/// One chain taken from a ring. Its segments lie in the batch that it was taken into. Value type.
struct Chain {
  std::uint64_t readable_bytes = 0;
  std::uint64_t writable_bytes = 0;
  std::uint32_t first : 31 = 0;  ///< of its segments, in the batch
  std::uint32_t again : 1 = 0;   ///< it was in flight when this queue started
  std::uint32_t readable = 0;    ///< segments the device reads; they come first
  std::uint32_t writable = 0;    ///< segments the device writes
  std::uint16_t id = 0;          ///< split: index of its head; packed: the buffer id
  std::uint16_t slots = 1;       ///< packed: ring entries that it holds
};
static_assert(sizeof(Chain) == 32);

/// Room for the chains of one pass. Reused, so that the hot path allocates only when a guest sends more segments than
/// any before it. Not shared between threads.
class ChainBatch {
 public:
  static constexpr std::size_t kMaxChains = 64;

  ChainBatch() : segments_(kMaxChains * 4) {}
  void clear() {
    count_ = 0;
    segment_count_ = 0;
  }
  std::size_t size() const { return count_; }
  bool is_full() const { return count_ == kMaxChains; }
  const Chain& operator[](std::size_t index) const { return chains_[index]; }
  std::span<const Chain> chains() const { return {chains_.data(), count_}; }

  std::span<const memory::GuestSpan> readable(const Chain& chain) const {
    return {segments_.data() + chain.first, chain.readable};
  }
  std::span<const memory::GuestSpan> writable(const Chain& chain) const {
    return {segments_.data() + chain.first + chain.readable, chain.writable};
  }
  std::span<const memory::GuestSpan> all(const Chain& chain) const {
    return {segments_.data() + chain.first, std::size_t{chain.readable} + chain.writable};
  }
  /// The driver's addresses of a chain's segments, where they are before an IOMMU.
  std::span<const memory::Iova> addresses(const Chain& chain) const {
    return std::span(addresses_).subspan(chain.first, std::size_t{chain.readable} + chain.writable);
  }

  // For those who fill it: the ring engines.

  /// The chain that comes next, empty; it is part of the batch after `commit`. The batch must not be full.
  Chain& begin() {
    Chain& chain = chains_[count_];
    chain = Chain{};
    chain.first = static_cast<std::uint32_t>(segment_count_) & 0x7fff'ffffU;
    return chain;
  }
  void commit() { ++count_; }
  /// Forgets the segments of a chain that was begun.
  void abandon(const Chain& chain) { segment_count_ = chain.first; }
  void append(memory::GuestSpan segment) {
    if (segment_count_ == segments_.size()) [[unlikely]]
      segments_.resize(2 * segments_.size());
    segments_[segment_count_++] = segment;
  }
  /// The driver's address of the segment appended last.
  void note_address(memory::Iova at) {
    addresses_.resize(std::max(addresses_.size(), segments_.size()));
    addresses_[segment_count_ - 1] = at;
  }
  std::size_t segment_count() const { return segment_count_; }

 private:
  std::array<Chain, kMaxChains> chains_;
  std::size_t count_ = 0;
  std::vector<memory::GuestSpan> segments_;
  std::vector<memory::Iova> addresses_;
  std::size_t segment_count_ = 0;
};

}  // namespace causeway::virtio

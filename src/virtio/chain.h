// Descriptor chains, translated: what a device works on.
#pragma once

#include "memory/guest_span.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace causeway::virtio {

/// One chain taken from a ring. Its segments lie in the batch that it was taken into.
struct Chain {
  std::uint16_t head = 0;
  std::uint32_t first = 0;     ///< of its segments, in the batch
  std::uint32_t readable = 0;  ///< segments the device reads; they come first
  std::uint32_t writable = 0;  ///< segments the device writes
  std::uint64_t readable_bytes = 0;
  std::uint64_t writable_bytes = 0;
};

/// Room for the chains of one pass. Reused, so that the hot path allocates only when a guest sends more segments than
/// any before it. Not shared between threads.
class ChainBatch {
 public:
  static constexpr std::size_t kMaxChains = 64;

  ChainBatch() { segments_.reserve(kMaxChains * 4); }
  void clear() {
    count_ = 0;
    segments_.clear();
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

 private:
  friend class SplitDeviceQueue;
  std::array<Chain, kMaxChains> chains_;
  std::size_t count_ = 0;
  std::vector<memory::GuestSpan> segments_;
};

}  // namespace causeway::virtio

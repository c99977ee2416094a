// Whether something that changes a range may start while others that change ranges are under way.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace causeway::blk {

/// A filter: "free" is certain, "taken" may be wrong and asks for a closer look. Counts changes under way by the blocks
/// of 4 KiB that they touch. Thread: one at a time.
class OverlapFilter {
 public:
  /// Whether no change that was entered touches the range.
  bool is_free(std::uint64_t offset, std::uint64_t length) const {
    if (wide_ != 0) return false;
    if (is_wide(offset, length)) return entered_ == 0;
    for (std::uint64_t block = first(offset); block <= last(offset, length); ++block) {
      if (counts_[block % kCounts] != 0) return false;
    }
    return true;
  }
  void enter(std::uint64_t offset, std::uint64_t length) { change(offset, length, 1); }
  /// Takes back one `enter` of the same range.
  void leave(std::uint64_t offset, std::uint64_t length) { change(offset, length, -1); }

 private:
  static constexpr std::uint64_t kBlock = 4096;
  static constexpr std::size_t kCounts = 8192;
  /// A range of more blocks is not counted block by block: it is said to touch everything.
  static constexpr std::uint64_t kWide = 256;

  static std::uint64_t first(std::uint64_t offset) { return offset / kBlock; }
  static std::uint64_t last(std::uint64_t offset, std::uint64_t length) {
    return (offset + (length == 0 ? 0 : length - 1)) / kBlock;
  }
  static bool is_wide(std::uint64_t offset, std::uint64_t length) {
    return last(offset, length) - first(offset) >= kWide;
  }
  void change(std::uint64_t offset, std::uint64_t length, int by) {
    entered_ = static_cast<std::uint32_t>(static_cast<int>(entered_) + by);
    if (is_wide(offset, length)) {
      wide_ = static_cast<std::uint32_t>(static_cast<int>(wide_) + by);
      return;
    }
    for (std::uint64_t block = first(offset); block <= last(offset, length); ++block) {
      auto& count = counts_[block % kCounts];
      count = static_cast<std::uint16_t>(count + by);
    }
  }

  std::array<std::uint16_t, kCounts> counts_{};
  std::uint32_t entered_ = 0;
  std::uint32_t wide_ = 0;
};

}  // namespace causeway::blk

// The front-end's end of a log of written pages, in this process.
#pragma once

#include "memory/dirty_log.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "support/guest_memory.h"

namespace causeway::bench {

/// Takes the bits of one region's pages, and remembers which there were.
class FrontEndLog {
 public:
  explicit FrontEndLog(const memory::Region& memory)
      : first_(memory.iova.value() / memory::DirtyLog::kPage / 8),
        pages_(memory.size / memory::DirtyLog::kPage),
        file_(testing::value_or_die(make_memfd("log", first_ + pages_ / 8 + 1))),
        bits_(testing::value_or_die(Mapping::map(file_, first_, pages_ / 8 + 1))),
        seen_(bits_->size()) {}

  std::shared_ptr<const memory::DirtyLog> share() const {
    return testing::value_or_die(memory::DirtyLog::map(file_, 0, first_ + bits_->size()));
  }
  void harvest() {
    for (std::size_t i = 0; i < seen_.size(); ++i) {
      seen_[i] |= std::atomic_ref(bits_->data()[i]).exchange(std::byte{0}, std::memory_order_acq_rel);
    }
  }
  void forget() {
    harvest();
    std::ranges::fill(seen_, std::byte{0});
  }
  bool has_seen(memory::Iova at) const {
    const std::uint64_t page = at.value() / memory::DirtyLog::kPage - first_ * 8;
    return (seen_[page / 8] & (std::byte{1} << (page % 8))) != std::byte{0};
  }

 private:
  std::uint64_t first_;  // byte of the log
  std::uint64_t pages_;
  OwnedFd file_;
  std::shared_ptr<const Mapping> bits_;
  std::vector<std::byte> seen_;  // since `forget`
};

}  // namespace causeway::bench

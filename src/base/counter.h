// Counters that a worker writes and other threads read.
#pragma once

#include <atomic>
#include <cstdint>

namespace causeway {

/// A counter with one writer. Thread: `add` on the writer's, `value` on any.
class Counter {
 public:
  void add(std::uint64_t count) {
    value_.store(value_.load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
  }
  std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

}  // namespace causeway

// Log lines. One sentence each; the subject (port, queue, message) is named in the text.
#pragma once

#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string_view>

namespace causeway::log {

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

/// Sends log lines to standard error with time and level. `level` is spdlog's name: trace, debug, info, warn, err, off.
void start(std::string_view level);

/// Lets through a few lines at once and then one a period, so that a peer cannot flood the log. Thread: any.
class RateLimit {
 public:
  using Clock = std::chrono::steady_clock;
  explicit RateLimit(unsigned burst = 10, Clock::duration period = std::chrono::seconds(1))
      : burst_(burst), tokens_(burst), period_(period) {}
  /// True when the line may be written; counts the line as suppressed otherwise.
  bool allow(Clock::time_point now = Clock::now());
  /// How many lines were held back since the last call.
  std::uint64_t take_suppressed();

 private:
  std::mutex mutex_;
  unsigned burst_;
  unsigned tokens_;
  Clock::duration period_;
  Clock::time_point last_ = Clock::now();
  std::uint64_t suppressed_ = 0;
};

}  // namespace causeway::log

// How many requests and bytes a port may move in a second.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>

namespace causeway::blk {

/// A limit per second, and how much of it may be saved up while nothing happens. Value type.
struct RateLimit {
  std::uint64_t per_second;  ///< > 0
  std::uint64_t burst;       ///< >= 1; what may go at once after a pause
  bool operator==(const RateLimit&) const = default;
};

struct RateLimits {
  std::optional<RateLimit> requests;
  std::optional<RateLimit> bytes;
  bool operator==(const RateLimits&) const = default;
};

/// Two token buckets. A request may start while neither is in debt, and pays afterwards, so that one larger than the
/// burst is only late, not stuck. Thread: any.
class RateLimiter {
 public:
  using Clock = std::chrono::steady_clock;
  explicit RateLimiter(RateLimits limits, Clock::time_point now = Clock::now());

  /// False: nothing need be asked.
  bool is_limited() const { return limited_; }
  /// Lets a request of `bytes` start, or says how long to wait before asking again.
  std::optional<Clock::duration> admit(std::uint64_t bytes, Clock::time_point now);

 private:
  class Bucket {
   public:
    Bucket(const std::optional<RateLimit>& limit, Clock::time_point now);
    /// Until it is out of debt; zero when it is.
    Clock::duration debt(Clock::time_point now);
    void pay(std::uint64_t amount) { balance_ -= static_cast<double>(amount); }

   private:
    std::optional<RateLimit> limit_;
    double balance_ = 0;
    Clock::time_point last_;
  };

  const bool limited_;
  std::mutex mutex_;
  Bucket requests_;
  Bucket bytes_;
};

}  // namespace causeway::blk

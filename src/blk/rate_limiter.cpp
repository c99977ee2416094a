#include "blk/rate_limiter.h"

#include <algorithm>

namespace causeway::blk {

RateLimiter::Bucket::Bucket(const std::optional<RateLimit>& limit, Clock::time_point now)
    : limit_(limit), balance_(limit ? static_cast<double>(limit->burst) : 0), last_(now) {}

RateLimiter::Clock::duration RateLimiter::Bucket::debt(Clock::time_point now) {
  if (!limit_) return Clock::duration::zero();
  const double elapsed = std::chrono::duration<double>(std::max(now - last_, Clock::duration::zero())).count();
  last_ = std::max(now, last_);
  const auto rate = static_cast<double>(limit_->per_second);
  balance_ = std::min(balance_ + elapsed * rate, static_cast<double>(limit_->burst));
  if (balance_ > 0) return Clock::duration::zero();
  // One more, so that the wait ends on the right side of zero.
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>((1 - balance_) / rate)) +
         Clock::duration(1);
}

RateLimiter::RateLimiter(RateLimits limits, Clock::time_point now)
    : limited_(limits.requests || limits.bytes), requests_(limits.requests, now), bytes_(limits.bytes, now) {}

std::optional<RateLimiter::Clock::duration> RateLimiter::admit(std::uint64_t bytes, Clock::time_point now) {
  const std::scoped_lock lock(mutex_);
  const auto wait = std::max(requests_.debt(now), bytes_.debt(now));
  if (wait > Clock::duration::zero()) return wait;
  requests_.pay(1);
  bytes_.pay(bytes);
  return std::nullopt;
}

}  // namespace causeway::blk

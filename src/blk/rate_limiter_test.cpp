#include "blk/rate_limiter.h"

#include <gtest/gtest.h>

namespace causeway::blk {
namespace {

using Clock = RateLimiter::Clock;
using namespace std::chrono_literals;

constexpr Clock::time_point kStart{};

TEST(RateLimiter, WithoutLimitsAsksForNothing) {
  RateLimiter limiter({}, kStart);
  EXPECT_FALSE(limiter.is_limited());
  EXPECT_FALSE(limiter.admit(1 << 30, kStart));
}

TEST(RateLimiter, LetsTheBurstGoAndThenTheRate) {
  RateLimiter limiter({.requests = RateLimit{.per_second = 10, .burst = 5}, .bytes = {}}, kStart);
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(limiter.admit(4096, kStart)) << i;
  const auto wait = limiter.admit(4096, kStart);
  ASSERT_TRUE(wait);
  EXPECT_GT(*wait, 90ms);
  EXPECT_LT(*wait, 110ms);
  EXPECT_FALSE(limiter.admit(4096, kStart + *wait));
  int admitted = 0;
  for (auto now = kStart + 1s; now < kStart + 11s; now += 10ms) admitted += limiter.admit(4096, now) ? 0 : 1;
  EXPECT_NEAR(admitted, 105, 3);
}

TEST(RateLimiter, ARequestLargerThanTheBurstIsLateAndNotStuck) {
  RateLimiter limiter({.requests = {}, .bytes = RateLimit{.per_second = 1000, .burst = 100}}, kStart);
  EXPECT_FALSE(limiter.admit(5000, kStart));
  const auto wait = limiter.admit(1, kStart);
  ASSERT_TRUE(wait);
  EXPECT_GT(*wait, 4800ms);
  EXPECT_FALSE(limiter.admit(1, kStart + *wait));
}

TEST(RateLimiter, BothLimitsHold) {
  RateLimiter limiter(
      {.requests = RateLimit{.per_second = 1000, .burst = 1000}, .bytes = RateLimit{.per_second = 100, .burst = 100}},
      kStart);
  EXPECT_FALSE(limiter.admit(100, kStart));
  EXPECT_TRUE(limiter.admit(1, kStart));
}

}  // namespace
}  // namespace causeway::blk

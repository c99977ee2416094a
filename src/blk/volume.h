// What a disk is connected to: a store, and what all queues of a port share on it.
#pragma once

#include "base/log.h"

#include <memory>
#include <string>

#include "blk/rate_limiter.h"
#include "blk/store.h"

namespace causeway::blk {

/// Shared by the Disks of one port, so that queues can move between them. Thread: any, but for what Store says.
class Volume {
 public:
  /// `port`: for log lines.
  Volume(std::string port, std::shared_ptr<Store> store, RateLimits limits)
      : port_(std::move(port)), store_(std::move(store)), limiter_(limits) {}

  Store& store() { return *store_; }
  const Store& store() const { return *store_; }
  RateLimiter& limiter() { return limiter_; }
  /// Writes one line (of few: limited in rate) about an operation that failed.
  void report(const Operation& operation);

 private:
  std::string port_;
  std::shared_ptr<Store> store_;
  RateLimiter limiter_;
  log::RateLimit log_limit_;
};

}  // namespace causeway::blk

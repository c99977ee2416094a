#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <algorithm>
#include <string>

namespace causeway::log {

void start(std::string_view level) {
  auto logger = spdlog::stderr_color_mt("causeway");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  logger->set_level(spdlog::level::from_str(std::string(level)));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

bool RateLimit::allow(Clock::time_point now) {
  const std::scoped_lock lock(mutex_);
  const auto earned = (now - last_) / period_;
  if (earned > 0) {
    tokens_ = static_cast<unsigned>(std::min<std::int64_t>(burst_, tokens_ + earned));
    last_ += earned * period_;
  }
  if (tokens_ == 0) {
    ++suppressed_;
    return false;
  }
  --tokens_;
  return true;
}

std::uint64_t RateLimit::take_suppressed() {
  const std::scoped_lock lock(mutex_);
  return std::exchange(suppressed_, 0);
}

}  // namespace causeway::log

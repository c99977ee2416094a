// The port that a BurstLoad drives.
#pragma once

#include "base/loop.h"
#include "base/worker.h"
#include "port/port.h"

#include <cstdint>
#include <memory>

#include "burst_load.h"

namespace causeway::bench {

inline constexpr std::uint64_t kDiskBytes = 256 << 20;

/// A software NIC or disk that does the work; Device and relay run on `worker`.
std::unique_ptr<port::Port> make_port(Loop& loop, Worker& worker, const BurstConfig& config);

}  // namespace causeway::bench

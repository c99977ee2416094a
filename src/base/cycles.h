// The time-stamp counter: cheap enough to read twice in every pass of a worker.
#pragma once

#include <chrono>
#include <cstdint>

namespace causeway {

/// A counter that rises at a constant rate: the processor's time-stamp counter, or nanoseconds where there is none.
inline std::uint64_t read_cycles() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}

/// Tells the processor that this is a wait loop, and waits some tens of nanoseconds.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace causeway

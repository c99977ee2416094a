// A driver of ours at a port in this process, which works in bursts: fill, wait until all of it is used, take it back.
#pragma once

#include <cstdint>
#include <memory>

#include "software_iommu.h"

namespace causeway::bench {

enum class Work : std::uint8_t {
  transmit,  ///< to a NIC that drops what it has copied
  receive,   ///< from a NIC that has always something
  read,      ///< from a disk in memory
  write,
};
constexpr bool is_disk(Work work) {
  return work == Work::read || work == Work::write;
}

/// Value type.
struct BurstConfig {
  Work work = Work::transmit;
  Mappings mappings = Mappings::none;
  bool packed = false;
  bool logs = false;         ///< every page that may have been written is marked, as in a migration
  std::uint32_t burst = 32;  ///< packets or requests
  std::uint32_t bytes = 60;  ///< of a frame without header and check sequence, or of a request's data
  std::uint32_t ring = 256;  ///< least entries: room for two bursts at least, and always full
  unsigned device_cpu = 1;   ///< for the Device's worker, and the relay where there is one
};

/// Packets or requests per second. Value type.
struct Rates {
  double mean;
  double best;  ///< of the pieces of a few milliseconds: what it is while nobody else wants the processors
};

/// A port with one queue that runs, and a driver. Idle but in `rate`: then nothing of it takes processor time.
/// Thread: the one that has made it, which is the driver's and the port's control thread at once. With a thread of its
/// own the driver would hand each mapping over to the other and sleep: a cost that is no port's, and larger than what
/// is to be seen. Only where the port asks does the driver look into the loop, and only when nothing is used.
class BurstLoad {
 public:
  static std::unique_ptr<BurstLoad> make(const BurstConfig& config);
  virtual ~BurstLoad() = default;
  BurstLoad(const BurstLoad&) = delete;
  BurstLoad& operator=(const BurstLoad&) = delete;

  /// Works for some seconds. Throws when the queue stands still, a buffer was not written
  /// that should have been, or the log lacks one.
  virtual Rates rate(double seconds) = 0;

 protected:
  BurstLoad() = default;
};

}  // namespace causeway::bench

#include "burst_port.h"

#include "net/nic.h"
#include "net/reflector.h"

#include <optional>
#include <utility>
#include <vector>

#include "blk/disk.h"
#include "blk/ram_store.h"
#include "support/guest_memory.h"

namespace causeway::bench {
namespace {

/// Of a disk, which takes fewer unless it is told so.
constexpr std::uint32_t kLargestRing = 32768;

std::unique_ptr<vdpa::Device> make_device(Loop& loop, Worker& worker, const BurstConfig& config) {
  if (is_disk(config.work)) {
    const auto volume = std::make_shared<blk::Volume>("bench", testing::value_or_die(blk::RamStore::make(kDiskBytes)),
                                                      blk::RateLimits{});
    return testing::value_or_die(
        blk::Disk::make(loop, {&worker}, {.name = "soft", .largest_ring = kLargestRing, .serial = {}}, volume));
  }
  const auto reflection = config.work == Work::transmit ? net::Reflection::sink : net::Reflection::source;
  const auto link = std::make_shared<net::Reflector>(worker, "bench", reflection, config.bytes);
  return testing::value_or_die(
      net::Nic::make(loop, {.name = "soft", .mac = {{0x52, 0x54, 0, 0, 0, 1}}, .mtu = std::nullopt}, link));
}

}  // namespace

std::unique_ptr<port::Port> make_port(Loop& loop, Worker& worker, const BurstConfig& config) {
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  devices.push_back(make_device(loop, worker, config));
  return testing::value_or_die(
      port::Port::make(loop, {.name = "bench", .features_off = {}, .relay_worker = &worker}, std::move(devices)));
}

}  // namespace causeway::bench

// Configuration spaces of any bytes: what is found in them lies inside the BARs. Input: the sizes of the six BARs, in
// units of 16 bytes (2 bytes each), then the configuration space.
#include "virtio_pci/capabilities.h"

#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace causeway;

constexpr std::size_t kBars = 6;

void require(bool holds) {
  if (!holds) std::abort();
}

void check(const vfio::BusInfo& bus, const virtio_pci::Place& place, std::uint64_t least) {
  require(vfio::number(place.bar) < kBars && place.bytes >= least);
  const std::uint64_t whole = bus.region(place.bar).size;
  require(place.offset <= whole && place.bytes <= whole - place.offset);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto input = std::as_bytes(std::span(data, size));
  vfio::BusInfo bus;
  for (std::size_t i = 0; i < kBars; ++i) {
    std::uint16_t units = 0;
    if (input.size() < sizeof units) return 0;
    std::memcpy(&units, input.data(), sizeof units);
    bus.regions[i].size = std::uint64_t{units} * 16;
    input = input.subspan(sizeof units);
  }
  // A copy of its own, so that a byte read behind it is noticed.
  const std::vector<std::byte> space(input.begin(), input.end());
  const auto layout = virtio_pci::parse_config_space(space, bus);
  if (!layout) return 0;
  check(bus, layout->common, offsetof(virtio_pci::CommonCfg, queue_notify_config_data));
  check(bus, layout->notify, 2);
  if (layout->device) check(bus, *layout->device, 4);
  if (layout->ring_state) check(bus, *layout->ring_state, sizeof(virtio_pci::RingStateCfg));
  return 0;
}

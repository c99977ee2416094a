#include "net/receive_queue.h"

#include "net/receive_queue_on.h"

namespace causeway::net {
namespace {

template <virtio::ExactDeviceRing Ring>
Result<std::unique_ptr<ReceiveQueue>> start_on(const vdpa::QueueSetup& setup,
                                               std::shared_ptr<const memory::MemoryMap> map, QueueCounters& counters) {
  CW_TRY(auto ring, Ring::start(setup.ring, std::move(map)));
  if (setup.ring.features.has(virtio::NetFeature::mrg_rxbuf)) {
    return std::make_unique<ReceiveQueueOn<Ring, true>>(std::move(ring), setup, counters);
  }
  return std::make_unique<ReceiveQueueOn<Ring, false>>(std::move(ring), setup, counters);
}

}  // namespace

Result<std::unique_ptr<ReceiveQueue>> ReceiveQueue::start(const vdpa::QueueSetup& setup,
                                                          std::shared_ptr<const memory::MemoryMap> map,
                                                          QueueCounters& counters) {
  return virtio::with_device_ring<virtio::Extent::exact>(
      setup.ring, [&]<class Ring>() { return start_on<Ring>(setup, std::move(map), counters); });
}

}  // namespace causeway::net

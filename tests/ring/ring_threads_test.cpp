// Driver and device in two threads that sleep on eventfds whenever the other has nothing for them: a notification that
// is lost hangs the test. Run under ThreadSanitizer too.

#include "base/event_fd.h"
#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>

#include <poll.h>

#include <thread>

#include "support/guest_memory.h"

namespace causeway::virtio {
namespace {

using testing::GuestMemory, testing::value_or_die;

constexpr std::uint64_t kChains = 100'000;
constexpr int kPatienceMs = 30'000;

/// Sleeps until the event comes; false when it does not, which only a lost notification explains.
bool sleep_on(const EventFd& event) {
  pollfd entry{.fd = event.fd().borrow(), .events = POLLIN, .revents = 0};
  if (::poll(&entry, 1, kPatienceMs) != 1) return false;
  event.drain();
  return true;
}

std::string run_device(DeviceQueue& ring, const EventFd& kick, const EventFd& call) {
  ChainBatch batch;
  std::uint64_t served = 0;
  while (served < kChains) {
    batch.clear();
    const std::uint16_t taken = ring.take(batch, 32);
    for (const Chain& chain : batch.chains()) {
      std::uint64_t sequence = 0;
      if (chain.readable_bytes != sizeof sequence || chain.writable_bytes != sizeof sequence)
        return "a chain of a wrong shape";
      sequence = batch.readable(chain)[0].fetch<std::uint64_t>(0);
      if (sequence != served++) return "a chain out of order";
      batch.writable(chain)[0].put(0, ~sequence);
      ring.use(chain, sizeof sequence);
    }
    if (ring.publish()) call.signal();
    if (taken == 0 && !ring.arm() && !sleep_on(kick)) return "the device was never kicked again";
    if (ring.fault() != RingFault::none) return std::string(text(ring.fault()));
  }
  return "";
}

class TwoThreads : public ::testing::TestWithParam<std::tuple<FeatureSet, std::uint32_t>> {};

TEST_P(TwoThreads, LoseNoWakeUpAndNoByte) {
  const auto [features, entries] = GetParam();
  GuestMemory memory;
  const RingConfig config = memory.make_ring(entries, features);
  auto driver = value_or_die(DriverQueue::start(config, memory.map()));
  auto device = value_or_die(DeviceQueue::start(config, memory.map()));
  const auto kick = value_or_die(EventFd::make());
  const auto call = value_or_die(EventFd::make());
  std::vector<memory::Iova> places;
  for (std::uint32_t i = 0; i < entries; ++i) places.push_back(memory.allocate(16));
  std::string complaint;
  std::jthread device_thread([&] { complaint = run_device(device, kick, call); });

  std::uint64_t sent = 0;
  std::uint64_t reaped = 0;
  while (reaped < kChains) {
    while (sent < kChains && sent - reaped < entries / 2) {
      const memory::Iova place = places[sent % entries];
      memory.at(place, 16).put<std::uint64_t>(0, sent);
      const DriverBuffer out{.address = place, .length = 8};
      const DriverBuffer in{.address = memory::Iova(place.value() + 8), .length = 8};
      if (!driver.add({&out, 1}, {&in, 1}, sent)) break;
      ++sent;
    }
    if (driver.publish()) kick.signal();
    bool progress = false;
    while (const auto used = driver.reap()) {
      ASSERT_EQ(used->token, reaped);
      ASSERT_EQ(memory.at(places[reaped % entries], 16).fetch<std::uint64_t>(8), ~reaped);
      ++reaped;
      progress = true;
    }
    ASSERT_FALSE(driver.is_broken());
    if (!progress && reaped < kChains && !driver.arm()) {
      ASSERT_TRUE(sleep_on(call)) << "the driver was never called again, after " << reaped << " chains";
    }
    driver.disarm();
  }
  device_thread.join();
  EXPECT_EQ(complaint, "");
}

INSTANTIATE_TEST_SUITE_P(Rings, TwoThreads,
                         ::testing::Combine(::testing::Values(FeatureSet(), FeatureSet{Feature::event_idx},
                                                              FeatureSet{Feature::ring_packed},
                                                              FeatureSet{Feature::ring_packed, Feature::event_idx}),
                                            ::testing::Values(4U, 256U)));

}  // namespace
}  // namespace causeway::virtio

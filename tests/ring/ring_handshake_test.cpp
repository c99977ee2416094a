// One side publishes at the very moment at which the other arms, many times over: at least one of them must notice.
// A missing fence shows here within seconds on a quiet machine, and hardly ever in two free-running threads.

#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>

#include "support/guest_memory.h"

namespace causeway::virtio {
namespace {

using testing::GuestMemory, testing::value_or_die;

/// A quiet machine has some 50000 rounds in this time, which find any missing fence; a busy one has fewer.
constexpr std::chrono::milliseconds kRaceTime(150);

/// Where two threads wait for each other, with as little time between their departures as can be.
class Gate {
 public:
  void pass() {
    const unsigned generation = generation_.load(std::memory_order_relaxed);
    if (waiting_.fetch_add(1, std::memory_order_acq_rel) == 1) {
      waiting_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
      return;
    }
    for (unsigned spins = 0; generation_.load(std::memory_order_acquire) == generation; ++spins) {
      if (spins > 2000) std::this_thread::yield();
    }
  }

 private:
  std::atomic<unsigned> waiting_ = 0;
  std::atomic<unsigned> generation_ = 0;
};

/// Up to some hundred nanoseconds: the other side's stores take about as long to become visible.
void stagger(std::minstd_rand& random) {
  for (volatile unsigned spins = static_cast<unsigned>(random() % 100); spins != 0;) spins = spins - 1;
}

/// Members that the two threads write apart share no cache line.
constexpr std::size_t kApart = 128;

class Handshake : public ::testing::TestWithParam<std::tuple<bool, bool, std::uint32_t>> {
 protected:
  /// Nothing else runs between the gates than what is to race.
  void race(auto&& in_driver, auto&& in_device) {
    std::jthread device([&] {
      for (std::minstd_rand random(1);;) {
        gate_.pass();
        if (is_over_) return;
        read_ring();
        gate_.pass();
        stagger(random);
        in_device();
        gate_.pass();
      }
    });
    std::minstd_rand random(2);
    const auto end = std::chrono::steady_clock::now() + kRaceTime;
    while (!HasFatalFailure() && std::chrono::steady_clock::now() < end) {
      prepare();
      gate_.pass();
      read_ring();
      gate_.pass();
      stagger(random);
      in_driver();
      gate_.pass();
      ++rounds_;
      lost_ += device_noticed_ || driver_noticed_ ? 0 : 1;
      empty();
    }
    is_over_ = true;
    gate_.pass();
  }

  /// Brings the ring into the cache of both threads: a store is then slow, as it must take the line from the other, and
  /// a load is quick, which is when the load overtakes the store.
  void read_ring() const {
    const auto sizes = RingAreaSizes::of(config_.layout(), config_.size);
    for (const auto& [place, bytes] :
         {std::pair(config_.descriptors, sizes.descriptors.bytes), std::pair(config_.available, sizes.available.bytes),
          std::pair(config_.used, sizes.used.bytes)}) {
      const auto area = memory_.at(place, bytes);
      for (std::size_t at = 0; at < bytes; at += 64) area.fetch<std::uint8_t>(at);
      area.fetch<std::uint8_t>(bytes - 1);
    }
  }

  /// One chain more: added; for a race of used chains also published and taken.
  void prepare() {
    ASSERT_TRUE(driver_.add({&buffer_, 1}, {}, 0));
    // Else the wish of the round before would do.
    device_.disarm();
    driver_.disarm();
    if (!races_used_) return;
    driver_.publish();
    batch_.clear();
    ASSERT_EQ(device_.take(batch_, 1), 1);
    device_.use(batch_[0], 0);
  }

  void empty() {
    if (!races_used_) {
      batch_.clear();
      ASSERT_EQ(device_.take(batch_, 1), 1);
      device_.use(batch_[0], 0);
      device_.publish();
    }
    ASSERT_TRUE(driver_.reap());
  }

  FeatureSet features() const {
    FeatureSet features;
    if (std::get<0>(GetParam())) features = features.with(Feature::ring_packed);
    if (std::get<1>(GetParam())) features = features.with(Feature::event_idx);
    return features;
  }

  GuestMemory memory_;
  RingConfig config_ = memory_.make_ring(std::get<2>(GetParam()), features());
  alignas(kApart) DriverQueue driver_ = value_or_die(DriverQueue::start(config_, memory_.map()));
  alignas(kApart) DeviceQueue device_ = value_or_die(DeviceQueue::start(config_, memory_.map()));
  alignas(kApart) DriverBuffer buffer_{.address = memory_.allocate(64), .length = 64};
  ChainBatch batch_;
  alignas(kApart) Gate gate_;
  alignas(kApart) bool races_used_ = false;
  bool driver_noticed_ = false;
  alignas(kApart) bool device_noticed_ = false;
  int lost_ = 0;
  int rounds_ = 0;
  bool is_over_ = false;
};

TEST_P(Handshake, DriverKicksOrDeviceSeesTheChain) {
  race([this] { driver_noticed_ = driver_.publish(); }, [this] { device_noticed_ = device_.arm(); });
  EXPECT_EQ(lost_, 0) << "kicks of " << rounds_;
}

TEST_P(Handshake, DeviceCallsOrDriverSeesTheUsedChain) {
  races_used_ = true;
  race([this] { driver_noticed_ = driver_.arm(); }, [this] { device_noticed_ = device_.publish(); });
  EXPECT_EQ(lost_, 0) << "calls of " << rounds_;
}

std::string name_of(const ::testing::TestParamInfo<Handshake::ParamType>& info) {
  const auto [packed, event_idx, entries] = info.param;
  return std::string(packed ? "Packed" : "Split") + (event_idx ? "EventIdx" : "") + std::to_string(entries);
}

INSTANTIATE_TEST_SUITE_P(Rings, Handshake,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(), ::testing::Values(1U, 4U, 64U)),
                         name_of);

}  // namespace
}  // namespace causeway::virtio

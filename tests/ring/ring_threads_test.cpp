// Driver and device in two threads that sleep on eventfds whenever the other has nothing for them, with pauses at
// random: a notification that is lost hangs the test. Run under ThreadSanitizer too.

#include "base/event_fd.h"
#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <gtest/gtest.h>

#include <poll.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/guest_memory.h"

namespace causeway::virtio {
namespace {

using testing::GuestMemory, testing::value_or_die;

constexpr std::uint64_t kChains = 50'000;
constexpr int kPatienceMs = 30'000;
constexpr std::uint32_t kSequenceBytes = 8;

/// Every third chain has no writable part.
bool has_answer(std::uint64_t sequence) {
  return sequence % 3 != 0;
}

/// Lets the other thread run ahead, now and then, by anything from some cycles to a time slice.
class Pauses {
 public:
  explicit Pauses(unsigned seed) : random_(seed) {}
  std::uint32_t below(std::uint32_t limit) { return static_cast<std::uint32_t>(random_() % limit); }
  void maybe() {
    const std::uint32_t dice = below(4096);
    if (dice == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(below(50)));
    } else if (dice < 16) {
      std::this_thread::yield();
    } else if (dice < 256) {
      for (volatile std::uint32_t spins = below(500); spins != 0;) spins = spins - 1;
    }
  }

 private:
  std::minstd_rand random_;
};

/// A ring and the two descriptors between its sides.
struct Shared {
  Shared(FeatureSet negotiated, std::uint32_t entries)
      : features(negotiated), config(memory.make_ring(entries, negotiated)) {}

  GuestMemory memory;
  FeatureSet features;
  RingConfig config;
  EventFd kick = value_or_die(EventFd::make());
  EventFd call = value_or_die(EventFd::make());
};

/// Sleeps until the event comes; false when it does not, which only a lost notification explains.
bool sleep_on(const EventFd& event) {
  pollfd entry{.fd = event.fd().borrow(), .events = POLLIN, .revents = 0};
  if (::poll(&entry, 1, kPatienceMs) != 1) return false;
  event.drain();
  return true;
}

/// The device's thread: answers chains, out of order where that is allowed; now and then another engine takes over with
/// some chains in flight.
class DeviceThread {
 public:
  explicit DeviceThread(Shared& shared) : shared_(shared), in_order_(shared.features.has(Feature::in_order)) {
    ring_ = start(shared.config);
  }

  /// What went wrong, if anything.
  std::string run() {
    while (served_ < kChains) {
      batch_.clear();
      const std::uint16_t taken = ring_->take(batch_, static_cast<std::uint16_t>(1 + pauses_.below(32)));
      pauses_.maybe();
      if (!serve()) return "a chain of a wrong shape, or out of order";
      if (ring_->publish()) shared_.call.signal();
      pauses_.maybe();
      if (ring_->fault() != RingFault::none) return std::string(text(ring_->fault()));
      if (outstanding_.empty() && taken == 0 && !ring_->arm() && !sleep_on(shared_.kick)) return "never kicked again";
      if (pauses_.below(2) == 0) ring_->disarm();
      if (!outstanding_.empty() || pauses_.below(256) == 0) hand_over();
    }
    return "";
  }

 private:
  std::unique_ptr<DeviceQueue> start(const RingConfig& config) const {
    auto ring = value_or_die(DeviceQueue::start(config, shared_.memory.map(), Remember::in_flight));
    return std::make_unique<DeviceQueue>(std::move(ring));
  }

  void hand_over() {
    RingConfig config = shared_.config;
    config.start = ring_->state(outstanding_);
    outstanding_.clear();
    ring_ = start(config);
  }

  /// Uses the batch; one time in some, only a part, the rest being left for the next engine.
  bool serve() {
    std::vector<std::size_t> order(batch_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    if (!in_order_) std::ranges::shuffle(order, shuffler_);
    const bool stops_short = !order.empty() && pauses_.below(64) == 0;
    if (stops_short) order.resize(pauses_.below(static_cast<std::uint32_t>(order.size())));
    std::vector<bool> is_used(batch_.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (!answer(batch_[order[i]])) return false;
      is_used[order[i]] = true;
    }
    flush_unwritten();
    for (std::size_t i = 0; i < batch_.size(); ++i) {
      if (!is_used[i]) outstanding_.push_back(batch_[i]);
    }
    return true;
  }

  bool answer(const Chain& chain) {
    if (chain.readable_bytes != kSequenceBytes) return false;
    const auto sequence = batch_.readable(chain)[0].fetch<std::uint64_t>(0);
    if (in_order_ && sequence != served_) return false;
    if (chain.writable_bytes != (has_answer(sequence) ? kSequenceBytes : 0)) return false;
    ++served_;
    if (!has_answer(sequence)) {
      unwritten_.push_back(chain);
      return true;
    }
    flush_unwritten();
    batch_.writable(chain)[0].put(0, ~sequence);
    ring_->use(chain, kSequenceBytes);
    return true;
  }

  void flush_unwritten() {
    ring_->use_unwritten(unwritten_);
    unwritten_.clear();
  }

  Shared& shared_;
  bool in_order_;
  std::unique_ptr<DeviceQueue> ring_;
  ChainBatch batch_;
  std::vector<Chain> unwritten_;
  std::vector<Chain> outstanding_;
  std::uint64_t served_ = 0;
  Pauses pauses_{1};
  std::minstd_rand shuffler_{2};
};

/// The driver's thread.
class DriverThread {
 public:
  explicit DriverThread(Shared& shared) : shared_(shared), in_order_(shared.features.has(Feature::in_order)) {
    const std::uint32_t entries = shared.config.size.entries();
    std::optional<memory::Iova> tables;
    if (shared.features.has(Feature::indirect_desc)) tables = shared.memory.allocate(indirect_bytes(entries));
    auto ring = value_or_die(DriverQueue::start(shared.config, shared.memory.map(), tables));
    ring_ = std::make_unique<DriverQueue>(std::move(ring));
    for (std::uint32_t i = 0; i < entries; ++i) places_.push_back(shared.memory.allocate(2 * kSequenceBytes));
  }

  void run() {
    while (reaped_ < kChains) {
      const std::uint32_t limit = 1 + pauses_.below(64);
      for (std::uint32_t i = 0; i < limit && sent_ < kChains && add(); ++i) pauses_.maybe();
      if (ring_->publish()) shared_.kick.signal();
      pauses_.maybe();
      bool progress = false;
      while (const auto used = ring_->reap()) {
        progress = true;
        ASSERT_NO_FATAL_FAILURE(check(*used));
      }
      ASSERT_FALSE(ring_->is_broken());
      if (progress || reaped_ == kChains) continue;
      if (!ring_->arm()) {
        ASSERT_TRUE(sleep_on(shared_.call)) << "never called again, after " << reaped_ << " chains";
      }
      if (pauses_.below(2) == 0) ring_->disarm();
    }
  }

 private:
  bool add() {
    if (places_.empty()) return false;
    const memory::Iova place = places_.back();
    const DriverBuffer out{.address = place, .length = kSequenceBytes};
    const DriverBuffer in{.address = memory::Iova(place.value() + kSequenceBytes), .length = kSequenceBytes};
    shared_.memory.at(place, kSequenceBytes).put<std::uint64_t>(0, sent_);
    if (!ring_->add({&out, 1}, {&in, has_answer(sent_) ? std::size_t{1} : std::size_t{0}}, sent_)) return false;
    places_.pop_back();
    on_way_.push_back(place);
    ++sent_;
    return true;
  }

  void check(const UsedChain& used) {
    ASSERT_LT(used.token, sent_);
    if (in_order_) {
      ASSERT_EQ(used.token, reaped_);
    }
    ASSERT_FALSE(is_back_[used.token]) << "chain " << used.token << " came back twice";
    ASSERT_EQ(used.written, has_answer(used.token) ? kSequenceBytes : 0);
    is_back_[used.token] = true;
    const memory::Iova place = on_way_[used.token];
    if (has_answer(used.token)) {
      ASSERT_EQ(shared_.memory.at(place, 16).fetch<std::uint64_t>(kSequenceBytes), ~used.token);
    }
    places_.push_back(place);
    ++reaped_;
  }

  Shared& shared_;
  bool in_order_;
  std::unique_ptr<DriverQueue> ring_;
  std::vector<memory::Iova> places_;  // for chains, not in use
  std::vector<memory::Iova> on_way_;  // by token
  std::vector<bool> is_back_ = std::vector<bool>(kChains);
  std::uint64_t sent_ = 0;
  std::uint64_t reaped_ = 0;
  Pauses pauses_{3};
};

class TwoThreads : public ::testing::TestWithParam<std::tuple<bool, bool, bool, std::tuple<Layout, std::uint32_t>>> {};

TEST_P(TwoThreads, LoseNoWakeUpAndNoByte) {
  const auto [event_idx, in_order, indirect, ring] = GetParam();
  FeatureSet features;
  if (std::get<Layout>(ring) == Layout::packed) features = features.with(Feature::ring_packed);
  if (event_idx) features = features.with(Feature::event_idx);
  if (in_order) features = features.with(Feature::in_order);
  if (indirect) features = features.with(Feature::indirect_desc);
  Shared shared(features, std::get<std::uint32_t>(ring));
  DriverThread driver(shared);
  DeviceThread device(shared);
  std::string complaint;
  std::jthread thread([&] { complaint = device.run(); });
  driver.run();
  thread.join();
  EXPECT_EQ(complaint, "");
}

std::string name_of(const ::testing::TestParamInfo<TwoThreads::ParamType>& info) {
  const auto [event_idx, in_order, indirect, ring] = info.param;
  return std::string(std::get<Layout>(ring) == Layout::packed ? "Packed" : "Split") +
         std::to_string(std::get<std::uint32_t>(ring)) + (event_idx ? "EventIdx" : "") + (in_order ? "InOrder" : "") +
         (indirect ? "Indirect" : "");
}

INSTANTIATE_TEST_SUITE_P(
    Rings, TwoThreads,
    ::testing::Combine(::testing::Bool(), ::testing::Bool(), ::testing::Bool(),
                       ::testing::Values(std::tuple(Layout::split, 2U), std::tuple(Layout::split, 256U),
                                         std::tuple(Layout::packed, 3U), std::tuple(Layout::packed, 255U))),
    name_of);

}  // namespace
}  // namespace causeway::virtio

// A device side that dies between any two instructions: it is stepped through one by one in a process of its own, and
// after each that changed the shared memory, what recover() makes of it must be right.

#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"
#include "virtio/inflight.h"

#include <gtest/gtest.h>

#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "support/guest_memory.h"

namespace causeway::virtio {
namespace {

using testing::GuestMemory;
using testing::value_or_die;

constexpr std::uint16_t kEntries = 16;
constexpr std::uint16_t kChains = 7;

struct Case {
  Layout layout;
  std::uint16_t first;  ///< position at which the ring starts
  unsigned seed;
  Remember remember = Remember::in_flight;
};

class InflightCrash : public ::testing::TestWithParam<Case> {
 protected:
  InflightCrash() : config_(memory_.make_ring(kEntries, features())) {
    const Case& is = GetParam();
    config_.start.avail = config_.start.used = is.first;
    if (is.layout == Layout::split) {
      areas().used.store<std::uint16_t>(kRingIndex, is.first, std::memory_order_relaxed);
      areas().available.store<std::uint16_t>(kRingIndex, is.first, std::memory_order_relaxed);
    }
    make_available();
    config_.record = record_of(region_);
    note_chains();
  }

  static FeatureSet features() {
    FeatureSet features{Feature::version_1, Feature::indirect_desc};
    return GetParam().layout == Layout::packed ? features.with(Feature::ring_packed) : features;
  }
  static InflightRegion make_region() {
    return value_or_die(
        InflightRegion::make(GetParam().layout, 1, value_or_die(QueueSize::make(GetParam().layout, kEntries))));
  }
  std::shared_ptr<const InflightArea> record_of(const InflightRegion& region) const {
    return std::make_shared<const InflightArea>(*region.area(QueueIndex{0}, config_.layout(), config_.size));
  }
  RingAreas areas() const { return value_or_die(RingAreas::locate(config_, *memory_.map())); }

  /// Chains of one to three descriptors.
  void make_available() {
    auto driver = value_or_die(DriverQueue::start(config_, memory_.map()));
    for (std::uint16_t i = 0; i < kChains; ++i) {
      std::vector<DriverBuffer> buffers(1 + i % 3, DriverBuffer{.address = memory_.allocate(64), .length = 64});
      ASSERT_TRUE(driver.add(buffers, {}, i));
    }
    driver.publish();
  }

  /// Which chains there are, in their order, and how many ring entries each holds.
  void note_chains() {
    auto device = value_or_die(DeviceQueue::start(without_record(), memory_.map()));
    ChainBatch batch;
    ASSERT_EQ(device.take(batch, kChains), kChains);
    for (const Chain& chain : batch.chains()) {
      order_.push_back(chain.id);
      slots_[chain.id] = chain.slots;
    }
  }
  RingConfig without_record() const {
    RingConfig config = config_;
    config.record = nullptr;
    return config;
  }

  /// What the process that dies does: takes, uses in any order, publishes. One that remembers nothing uses in their
  /// order all that it takes.
  void work() const {
    std::minstd_rand random(GetParam().seed);
    auto device = value_or_die(DeviceQueue::start(config_, memory_.map(), GetParam().remember));
    ChainBatch batch;
    std::vector<Chain> taken;
    for (int turn = 0; turn < 12; ++turn) {
      batch.clear();
      device.take(batch, static_cast<std::uint16_t>(random() % 4));
      if (GetParam().remember == Remember::nothing) {
        for (const Chain& chain : batch.chains()) device.use(chain, 0);
        device.publish();
        continue;
      }
      taken.insert(taken.end(), batch.chains().begin(), batch.chains().end());
      for (std::size_t uses = taken.empty() ? 0 : random() % (taken.size() + 1); uses != 0; --uses) {
        const auto chosen = taken.begin() + static_cast<std::ptrdiff_t>(random() % taken.size());
        device.use(*chosen, 0);
        taken.erase(chosen);
      }
      device.publish();
    }
  }

  /// Ids of the chains that the driver sees as used.
  std::vector<std::uint16_t> used_ids() const {
    std::vector<std::uint16_t> ids;
    if (config_.layout() == Layout::split) {
      const auto used = areas().used.load<std::uint16_t>(kRingIndex, std::memory_order_acquire);
      for (std::uint16_t at = config_.start.used; at != used; ++at) {
        ids.push_back(
            static_cast<std::uint16_t>(areas().used.fetch<UsedElement>(kRingEntries + 8U * (at % kEntries)).id));
      }
      return ids;
    }
    PackedPosition at(config_.start.used, kEntries);
    while (ids.size() < kChains) {
      const auto tail = PackedTail::load(areas().descriptors, at.offset(), std::memory_order_acquire);
      if ((tail.flags() & kPackedBits) != at.used_bits()) break;
      ids.push_back(tail.id());
      at.advance(slots_.at(tail.id()));
    }
    return ids;
  }

  /// Each chain must be used, in flight, or still to be taken: one of the three, once.
  void check_partition(const QueueState& state) const {
    std::vector<std::uint16_t> all = used_ids();
    const std::size_t used = all.size();
    std::vector<std::uint16_t> in_flight;
    for (const InFlight& chain : state.in_flight) in_flight.push_back(chain.id);
    all.insert(all.end(), in_flight.begin(), in_flight.end());
    const std::size_t taken = all.size();
    ASSERT_LE(taken, order_.size());
    all.insert(all.end(), order_.begin() + static_cast<std::ptrdiff_t>(taken), order_.end());
    ASSERT_TRUE(std::ranges::is_permutation(all, order_)) << used << " used, " << taken - used << " in flight";
    // Run again in the order in which they came.
    const auto place = [&](std::uint16_t id) { return std::ranges::find(order_, id); };
    EXPECT_TRUE(std::ranges::is_sorted(in_flight, {}, place));
    EXPECT_EQ(state.avail, position_after(taken));
  }
  std::uint16_t position_after(std::size_t chains) const {
    if (config_.layout() == Layout::split) return static_cast<std::uint16_t>(config_.start.avail + chains);
    PackedPosition at(config_.start.avail, kEntries);
    for (std::size_t i = 0; i < chains; ++i) at.advance(slots_.at(order_[i]));
    return at.encoded();
  }

  /// The next device side finds everything of the ring that is not used, and no more.
  void check_rest(const RingConfig& resumed) const {
    auto device = value_or_die(DeviceQueue::start(resumed, memory_.map(), GetParam().remember));
    const std::size_t used = used_ids().size();
    ChainBatch batch;
    while (device.take(batch, kChains) != 0) continue;
    ASSERT_EQ(batch.size(), kChains - used);
    for (const Chain& chain : batch.chains()) device.use(chain, 0);
    device.publish();
    ASSERT_TRUE(std::ranges::is_permutation(used_ids(), order_));
  }

  /// Recovers from a copy of the record and the ring as they are now; then once more, after a start that died at once;
  /// then everything is worked to its end. The ring is as it was when this returns.
  void check_now() {
    const auto copy = record_of(scratch_);
    const RingAreas ring = areas();
    const auto bytes = all_bytes(ring, *config_.record);
    put_bytes(bytes, ring, *copy);
    check_recovery(copy);
    put_bytes(bytes, ring, *copy);
  }
  void check_recovery(const std::shared_ptr<const InflightArea>& copy) {
    const auto recovered = recover(*copy, config_, *memory_.map());
    ASSERT_TRUE(recovered) << recovered.error().text();
    // Before the record begins nothing has been taken either.
    if (!*recovered)
      return check_partition({.avail = config_.start.avail, .used = config_.start.used, .in_flight = {}});
    check_partition(**recovered);
    RingConfig again = config_;
    again.record = copy;
    again.start = **recovered;
    const auto device = DeviceQueue::start(again, memory_.map(), GetParam().remember);
    ASSERT_TRUE(device) << device.error().text();
    const auto second = recover(*copy, config_, *memory_.map());
    ASSERT_TRUE(second) << second.error().text();
    ASSERT_TRUE(second->has_value());
    EXPECT_EQ((**second).in_flight, (**recovered).in_flight);
    check_rest(again);
  }

  /// All the bytes that a crash leaves behind.
  static std::array<memory::GuestSpan, 4> spans(const RingAreas& ring, const InflightArea& record) {
    return {ring.descriptors, ring.used, record.bytes, record.log};
  }
  static std::vector<std::byte> all_bytes(const RingAreas& ring, const InflightArea& record) {
    std::vector<std::byte> bytes;
    for (const memory::GuestSpan& span : spans(ring, record)) {
      const std::size_t before = bytes.size();
      bytes.resize(before + span.size());
      span.read(0, std::span(bytes).subspan(before));
    }
    return bytes;
  }
  static void put_bytes(std::span<const std::byte> bytes, const RingAreas& ring, const InflightArea& record) {
    for (const memory::GuestSpan& span : spans(ring, record)) {
      span.write(0, bytes.first(span.size()));
      bytes = bytes.subspan(span.size());
    }
  }

  GuestMemory memory_;
  RingConfig config_;
  InflightRegion region_ = make_region();
  InflightRegion scratch_ = make_region();
  std::vector<std::uint16_t> order_;
  std::map<std::uint16_t, std::uint16_t> slots_;
};

TEST_P(InflightCrash, BetweenAnyTwoInstructionsLeavesWhatWasInFlight) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::raise(SIGSTOP);
    work();
    ::_exit(0);
  }
  std::vector<std::byte> seen;
  unsigned changes = 0;
  for (;;) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (!WIFSTOPPED(status)) {
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
      break;
    }
    auto now = all_bytes(areas(), *config_.record);
    if (now != seen) {
      ++changes;
      seen = std::move(now);
      check_now();
      if (HasFatalFailure()) {
        ::kill(child, SIGKILL);
        ::waitpid(child, &status, 0);
        return;
      }
    }
    ASSERT_EQ(::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr), 0);
  }
  EXPECT_GT(changes, 30U);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (unsigned seed = 1; seed <= 2; ++seed) {
    for (const unsigned first : {0U, 3U, 65530U})
      all.push_back({Layout::split, static_cast<std::uint16_t>(first), seed});
    for (const unsigned first : {0x8000U, 0x8009U, 13U}) {
      all.push_back({Layout::packed, static_cast<std::uint16_t>(first), seed});
      all.push_back({Layout::packed, static_cast<std::uint16_t>(first), seed, Remember::nothing});
    }
  }
  return all;
}

std::string name_of(const ::testing::TestParamInfo<Case>& parameter) {
  const Case& is = parameter.param;
  return std::string(is.layout == Layout::split ? "split" : "packed") + "_" + std::to_string(is.first) + "_" +
         std::to_string(is.seed) + (is.remember == Remember::nothing ? "_position_alone" : "");
}

INSTANTIATE_TEST_SUITE_P(Rings, InflightCrash, ::testing::ValuesIn(cases()), name_of);

}  // namespace
}  // namespace causeway::virtio

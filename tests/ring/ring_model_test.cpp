// The driver side against the device side, over all features, sizes, shapes and moves of the device side to another
// engine, held against a model that is a plain list.

#include "virtio/split_device_queue.h"
#include "virtio/split_driver_queue.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <deque>
#include <map>

#include "support/guest_memory.h"

namespace causeway::virtio {
namespace {

using testing::GuestMemory, testing::value_or_die;

/// What the model knows of a chain on its way.
struct Sent {
  std::uint64_t token;
  std::vector<std::byte> bytes;
  std::uint64_t writable;
};

constexpr std::uint32_t kBufferBytes = 256;

class Rig {
 public:
  Rig(std::uint32_t entries, FeatureSet features)
      : config_(memory_.make_ring(entries, features)),
        driver_(make_driver(features)),
        device_(value_or_die(SplitDeviceQueue::start(config_, memory_.map()))) {
    for (std::uint32_t i = 0; i < kPlaces; ++i) places_.push_back(memory_.allocate(kBufferBytes));
  }

  /// The driver adds a chain of some readable and some writable buffers.
  void add() {
    const auto readable = *rc::gen::inRange<std::size_t>(0, 5);
    const auto writable = *rc::gen::inRange<std::size_t>(readable == 0 ? 1 : 0, 5);
    if (places_.size() < readable + writable) return;
    std::vector<DriverBuffer> buffers;
    Sent sent{.token = next_token_, .bytes = {}, .writable = 0};
    for (std::size_t i = 0; i < readable + writable; ++i) {
      const auto length = *rc::gen::inRange<std::uint32_t>(1, kBufferBytes);
      buffers.push_back({.address = places_[i], .length = length});
      if (i >= readable) {
        sent.writable += length;
        continue;
      }
      std::vector<std::byte> bytes(length);
      for (auto& byte : bytes) byte = static_cast<std::byte>(*rc::gen::arbitrary<std::uint8_t>());
      memory_.at(places_[i], length).write(0, bytes);
      sent.bytes.insert(sent.bytes.end(), bytes.begin(), bytes.end());
    }
    const std::span all(buffers);
    if (!driver_.add(all.first(readable), all.subspan(readable), next_token_)) return;
    owned_[next_token_].assign(places_.begin(), places_.begin() + static_cast<std::ptrdiff_t>(readable + writable));
    places_.erase(places_.begin(), places_.begin() + static_cast<std::ptrdiff_t>(readable + writable));
    added_.push_back(std::move(sent));
    ++next_token_;
  }

  void publish() {
    driver_.publish();
    std::ranges::move(added_, std::back_inserter(visible_));
    added_.clear();
  }

  enum class Serve : std::uint8_t { some, all };

  /// The device takes chains, checks them against the model, puts some back or none, and uses the others.
  void serve(Serve how) {
    batch_.clear();
    const std::uint16_t limit = how == Serve::all ? std::uint16_t{64} : *rc::gen::inRange<std::uint16_t>(1, 40);
    const std::uint16_t taken = device_.take(batch_, limit);
    RC_ASSERT(device_.fault() == RingFault::none);
    RC_ASSERT(taken <= visible_.size());
    RC_ASSERT(taken > 0 || visible_.empty());
    const std::uint16_t keep =
        how == Serve::all ? taken : *rc::gen::inRange<std::uint16_t>(0, static_cast<std::uint16_t>(taken + 1));
    for (std::uint16_t i = 0; i < taken; ++i) {
      const Chain& chain = batch_[i];
      const Sent& sent = visible_[i];
      RC_ASSERT(chain.writable_bytes == sent.writable);
      std::vector<std::byte> bytes;
      for (const auto& segment : batch_.readable(chain)) {
        bytes.resize(bytes.size() + segment.size());
        segment.read(0, std::span(bytes).last(segment.size()));
      }
      RC_ASSERT(bytes == sent.bytes);
      if (i >= keep) continue;
      const auto written = static_cast<std::uint32_t>(sent.writable);
      device_.use(chain.head, written);
      used_.push_back({sent.token, written});
    }
    device_.untake(static_cast<std::uint16_t>(taken - keep));
    visible_.erase(visible_.begin(), visible_.begin() + keep);
    device_.publish();
  }

  /// The device side stops and another engine goes on where it was.
  void move_device() {
    RingConfig config = config_;
    config.start = device_.state();
    device_ = value_or_die(SplitDeviceQueue::start(config, memory_.map()));
  }

  void reap() {
    while (const auto chain = driver_.reap()) {
      RC_ASSERT(!used_.empty());
      RC_ASSERT(chain->token == used_.front().first);
      RC_ASSERT(chain->written == used_.front().second);
      used_.pop_front();
      auto& back = owned_.at(chain->token);
      places_.insert(places_.end(), back.begin(), back.end());
      owned_.erase(chain->token);
    }
    RC_ASSERT(used_.empty());
    RC_ASSERT(!driver_.is_broken());
  }

  bool is_idle() const { return visible_.empty() && added_.empty(); }

 private:
  static constexpr std::uint32_t kPlaces = 512;

  SplitDriverQueue make_driver(FeatureSet features) {
    std::optional<memory::Iova> tables;
    if (features.has(Feature::indirect_desc)) tables = memory_.allocate(SplitDriverQueue::indirect_bytes(config_.size));
    return value_or_die(SplitDriverQueue::start(config_, memory_.map(), tables));
  }

  GuestMemory memory_;
  RingConfig config_;
  SplitDriverQueue driver_;
  SplitDeviceQueue device_;
  ChainBatch batch_;
  std::vector<memory::Iova> places_;
  std::map<std::uint64_t, std::vector<memory::Iova>> owned_;
  std::deque<Sent> added_;
  std::deque<Sent> visible_;
  std::deque<std::pair<std::uint64_t, std::uint32_t>> used_;
  std::uint64_t next_token_ = 0;
};

RC_GTEST_PROP(SplitRing, EveryChainIsUsedOnceInOrderWithItsBytes, ()) {
  FeatureSet features;
  if (*rc::gen::arbitrary<bool>()) features = features.with(Feature::indirect_desc);
  if (*rc::gen::arbitrary<bool>()) features = features.with(Feature::event_idx);
  const std::uint32_t entries = 1U << *rc::gen::inRange(0, 10);
  Rig rig(entries, features);
  const auto steps = *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 12));
  for (const int step : steps) {
    if (step < 5) {
      rig.add();
    } else if (step < 7) {
      rig.publish();
    } else if (step < 9) {
      rig.serve(Rig::Serve::some);
    } else if (step < 10) {
      rig.move_device();
    } else {
      rig.reap();
    }
  }
  rig.publish();
  while (!rig.is_idle()) rig.serve(Rig::Serve::all);
  rig.reap();
}

TEST(SplitRing, GoesOnWhenItsIndicesWrap) {
  for (const std::uint32_t entries : {1U, 256U, 32768U}) {
    GuestMemory memory(16 << 20);
    const RingConfig config = memory.make_ring(entries, {Feature::event_idx});
    auto driver = value_or_die(SplitDriverQueue::start(config, memory.map()));
    auto device = value_or_die(SplitDeviceQueue::start(config, memory.map()));
    const DriverBuffer buffer{.address = memory.allocate(64), .length = 64};
    ChainBatch batch;
    std::uint64_t sent = 0;
    std::uint64_t reaped = 0;
    while (reaped < 200'000) {
      while (driver.add({&buffer, 1}, {}, sent)) ++sent;
      driver.publish();
      batch.clear();
      const auto taken = device.take(batch, 64);
      for (std::uint16_t i = 0; i < taken; ++i) device.use(batch[i].head, 0);
      device.publish();
      while (const auto used = driver.reap()) ASSERT_EQ(used->token, reaped++);
      ASSERT_EQ(device.fault(), RingFault::none);
      ASSERT_FALSE(driver.is_broken());
    }
  }
}

}  // namespace
}  // namespace causeway::virtio

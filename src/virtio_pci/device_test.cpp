// A Device over functions that it must refuse, and over one that goes and comes back.
#include "virtio_pci/device.h"

#include "virtio_pci/fake_device_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <stdexcept>
#include <utility>

#include "support/guest_memory.h"

namespace causeway::virtio_pci::testing {
namespace {

using vfio::RegionIndex;
using virtio::Feature, virtio::FeatureSet, virtio::NetFeature, virtio::QueueIndex;

/// A function as a Bus that may answer wrongly.
class BentBus final : public vfio::Bus {
 public:
  explicit BentBus(Function& function) : bent_info(function.info()), function_(function) {}

  const vfio::BusInfo& info() const override { return bent_info; }
  void set_observer(vfio::BusObserver* observer) override { an_observer = observer; }
  Result<void> read(RegionIndex region, std::uint64_t offset, std::span<std::byte> to) override {
    ++asked;
    CW_CHECK(function_.read(region, offset, to));
    const auto answer = answers.find({region, offset});
    if (answer != answers.end()) std::memcpy(to.data(), &answer->second, std::min(to.size(), sizeof answer->second));
    return {};
  }
  Result<void> write(RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) override {
    ++asked;
    return function_.write(region, offset, from);
  }
  std::optional<vfio::RegionFile> file_of(RegionIndex region, vfio::Area area) const override {
    return function_.file_of(region, area);
  }
  const OwnedFd* group() const override { return a_group ? &*a_group : nullptr; }
  Result<void> dma_map(const memory::Region& region) override { return function_.dma_map(region); }
  Result<void> dma_unmap(const memory::Region& region) override { return function_.dma_unmap(region); }
  Result<void> enable_vectors(std::uint32_t count) override { return function_.enable_vectors(count); }
  Result<void> set_vector(std::uint32_t vector, const OwnedFd* event) override {
    ++asked;
    if (vector < lent.size()) lent[vector] = event != nullptr;
    return function_.set_vector(vector, event);
  }
  Result<void> reset() override { return function_.reset(); }

  vfio::BusInfo bent_info;
  std::map<std::pair<RegionIndex, std::uint64_t>, std::uint32_t> answers;  ///< to a read there
  vfio::BusObserver* an_observer = nullptr;
  unsigned asked = 0;          ///< accesses, and vectors that were set
  std::array<bool, 3> lent{};  ///< which vectors signal something
  std::optional<OwnedFd> a_group;

 private:
  Function& function_;
};

struct Observer final : vdpa::DeviceObserver {
  void config_changed() override {}
  void queue_failed(QueueIndex /*queue*/, Error /*reason*/) override {}
  void device_gone(Error /*reason*/) override { ++gone; }
  void device_back() override { ++back; }
  int gone = 0;
  int back = 0;
};

struct DeviceTest : ::testing::Test {
  static DeviceConfig config() { return {.name = "accelerator", .patience = std::chrono::milliseconds(20)}; }
  FunctionRig& add_function(const FakeDeviceConfig& device = {}, FunctionConfig function = {}) {
    rigs.push_back(std::make_unique<FunctionRig>(loop, *worker, device, function));
    return *rigs.back();
  }
  static std::unique_ptr<BentBus> bus(FunctionRig& rig) { return std::make_unique<BentBus>(*rig.function); }
  /// The error of a Device over that bus; it must name the Device.
  Error refusal(std::unique_ptr<vfio::Bus> bus, DeviceConfig device = config()) {
    auto made = Device::make(loop, std::move(bus), std::move(device));
    if (made) throw std::runtime_error("it was not refused");
    EXPECT_NE(made.error().text().find("accelerator"), std::string::npos) << made.error().text();
    return made.error();
  }

  std::unique_ptr<Worker> worker = value_or_die(Worker::start({.name = "test", .polling = Polling::sleep, .cpu = {}}));
  Loop loop;
  causeway::testing::GuestMemory memory;
  std::vector<std::unique_ptr<FunctionRig>> rigs;
};

TEST_F(DeviceTest, LearnsWhatTheFunctionIs) {
  const auto device = value_or_die(Device::make(loop, bus(add_function()), config()));
  EXPECT_EQ(device->info().queues, 2U);
  EXPECT_EQ(device->info().largest_ring, kFakeLargestRing);
  EXPECT_EQ(device->info().config_size, kFakeConfigBytes);
  EXPECT_TRUE(device->info().features.has(Feature::ring_packed));
  EXPECT_FALSE(device->info().features.has(Feature::ring_reset)) << "that is the transport's";
  EXPECT_TRUE(device->info().can.reports_state);
}

TEST_F(DeviceTest, OfAPlainFunctionItTakesSplitRingsOnly) {
  const auto device = value_or_die(Device::make(loop, bus(add_function({}, {.ring_state = false})), config()));
  EXPECT_FALSE(device->info().features.has(Feature::ring_packed));
  EXPECT_FALSE(device->info().can.reports_state);
}

TEST_F(DeviceTest, RefusesFunctionsItCannotUse) {
  auto other = config();
  other.type = virtio::DeviceType::block;
  EXPECT_EQ(refusal(bus(add_function()), other).code, Errc::not_supported);
  EXPECT_EQ(refusal(bus(add_function({.features = FeatureSet{Feature::event_idx}}))).code, Errc::not_supported)
      << "a legacy function";

  auto vectors = bus(add_function());
  vectors->bent_info.vectors = 2;
  EXPECT_NE(refusal(std::move(vectors)).what.find("vectors"), std::string::npos);
  auto entries = bus(add_function());
  entries->answers[{RegionIndex::bar0, offsetof(CommonCfg, queue_size)}] = 0;
  EXPECT_EQ(refusal(std::move(entries)).code, Errc::not_supported);
  auto queues = bus(add_function());
  queues->answers[{RegionIndex::bar0, offsetof(CommonCfg, num_queues)}] = 1;
  EXPECT_EQ(refusal(std::move(queues)).code, Errc::not_supported) << "not even a pair";
}

TEST_F(DeviceTest, AFunctionThatDoesNotResetIsGone) {
  auto stuck = bus(add_function());
  stuck->answers[{RegionIndex::bar0, offsetof(CommonCfg, device_status)}] = 1;
  EXPECT_EQ(refusal(std::move(stuck)).code, Errc::gone);
}

TEST_F(DeviceTest, ABrokenConfigurationSpaceIsTheFunctionsFault) {
  auto circle = bus(add_function());
  circle->answers[{RegionIndex::config, 0x40}] = 0x4009;  // the first capability is the next, too
  EXPECT_EQ(refusal(std::move(circle)).code, Errc::peer_violation);
}

TEST_F(DeviceTest, ThreeVectorsAreEnoughForAPair) {
  auto three = bus(add_function());
  three->bent_info.vectors = 3;
  EXPECT_TRUE(Device::make(loop, std::move(three), config())) << "the control queue does without";
}

TEST_F(DeviceTest, FeaturesThatTheFunctionRefusesAreRefused) {
  auto& rig = add_function();
  const auto device = value_or_die(Device::make(loop, bus(rig), config()));
  EXPECT_EQ(device->set_features(FeatureSet{Feature::in_order}).error().code, Errc::not_supported);
  EXPECT_TRUE(device->set_features(FeatureSet{Feature::version_1}));
  rig.device->refuses_features = true;
  const auto refused = device->set_features(FeatureSet{Feature::version_1});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::not_supported);
}

TEST_F(DeviceTest, AnAbsentOneComesLater) {
  const auto device = Device::make_absent(loop, config());
  Observer observer;
  device->set_observer(&observer);
  EXPECT_TRUE(device->is_gone());
  EXPECT_EQ(device->set_features({}).error().code, Errc::gone);
  while (loop.run_ready()) continue;
  EXPECT_EQ(observer.gone, 1);
  ASSERT_TRUE(device->use(bus(add_function())));
  EXPECT_FALSE(device->is_gone());
  EXPECT_EQ(observer.back, 1);
  EXPECT_TRUE(device->set_features(FeatureSet{Feature::version_1}));
}

TEST_F(DeviceTest, AFunctionThatWasRefusedIsNotSpokenTo) {
  const auto device = Device::make_absent(loop, config());
  auto refused = bus(add_function());
  refused->bent_info.vectors = 2;
  ASSERT_FALSE(device->use(std::move(refused)));
  std::array<std::byte, 4> bytes{};
  const auto read = device->read_config(0, bytes);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Errc::gone);
}

TEST_F(DeviceTest, OneThatOffersLessCannotTakeThePlaceOfAnother) {
  auto first = bus(add_function());
  BentBus& gone = *first;
  const auto device = value_or_die(Device::make(loop, std::move(first), config()));
  Observer observer;
  device->set_observer(&observer);
  gone.an_observer->bus_gone({.code = Errc::gone, .what = "unplugged"});
  EXPECT_TRUE(device->is_gone());
  EXPECT_EQ(observer.gone, 1);

  const FeatureSet whole = FakeDeviceConfig().features;
  for (const FakeDeviceConfig& less : {FakeDeviceConfig{.largest_ring = kFakeLargestRing / 2},
                                       FakeDeviceConfig{.features = whole.without(Feature::event_idx)}}) {
    const auto refused = device->use(bus(add_function(less)));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::not_supported);
    EXPECT_NE(refused.error().text().find("less"), std::string::npos) << refused.error().text();
    EXPECT_TRUE(device->is_gone());
  }
  EXPECT_EQ(observer.back, 0);
  ASSERT_TRUE(device->use(bus(add_function({.features = whole.with(Feature::in_order)}))));
  EXPECT_EQ(observer.back, 1);
  EXPECT_FALSE(device->info().features.has(Feature::in_order)) << "what it is does not change";
}

TEST_F(DeviceTest, ADoorbellOutsideItsAreaIsRefused) {
  auto wrong = bus(add_function());
  wrong->answers[{RegionIndex::bar0, offsetof(CommonCfg, queue_notify_off)}] = 0x1000;
  const auto device = value_or_die(Device::make(loop, std::move(wrong), config()));
  ASSERT_TRUE(device->map(memory.map()->regions()));
  const auto ring = memory.make_ring(64, FeatureSet{Feature::version_1});
  const auto set = device->set_queue(QueueIndex{0}, {.ring = ring, .kick = {}, .call = {}, .enabled = true});
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code, Errc::peer_violation);
  EXPECT_EQ(device->set_queue(QueueIndex{2}, {.ring = ring, .kick = {}, .call = {}}).error().code,
            Errc::peer_violation);
}

TEST_F(DeviceTest, AQueueThatComesBackIsOnlyToldToStart) {
  auto& rig = add_function();
  auto made = bus(rig);
  BentBus& watched = *made;
  const auto device = value_or_die(Device::make(loop, std::move(made), config()));
  ASSERT_TRUE(device->set_features(FeatureSet{Feature::version_1}));
  ASSERT_TRUE(device->map(memory.map()->regions()));
  const auto call = value_or_die(CallFd::make());
  auto ring = memory.make_ring(64, FeatureSet{Feature::version_1});
  const auto start = [&](const virtio::RingConfig& where, std::optional<CallFd> signalled) {
    watched.asked = 0;
    const auto done =
        device->set_queue(QueueIndex{0}, {.ring = where, .kick = {}, .call = std::move(signalled), .enabled = true});
    EXPECT_TRUE(done);
    EXPECT_TRUE(rig.device->runs(0));
    return watched.asked;
  };
  const auto stop = [&] {
    watched.asked = 0;
    EXPECT_TRUE(device->stop_queue(QueueIndex{0}, vdpa::StopMode::leave));
    EXPECT_FALSE(rig.device->runs(0));
    return watched.asked;
  };
  start(ring, call);
  EXPECT_EQ(stop(), 3U);
  EXPECT_EQ(start(ring, call), 2U);
  stop();
  // Another interrupt, then another ring.
  EXPECT_EQ(start(ring, value_or_die(CallFd::make())), 3U);
  stop();
  ring = memory.make_ring(64, FeatureSet{Feature::version_1});
  EXPECT_GT(start(ring, call), 8U);
  rig.device->queues.at(QueueIndex{0}).call->signal();
  EXPECT_TRUE(call.drain());
  stop();
  // The function forgets with its reset.
  ASSERT_TRUE(watched.lent[1]);
  ASSERT_TRUE(device->set_status(vdpa::Status::reset));
  EXPECT_FALSE(watched.lent[1]);
  ASSERT_TRUE(device->set_features(FeatureSet{Feature::version_1}));
  EXPECT_GT(start(ring, call), 8U);
  EXPECT_TRUE(watched.lent[1]);
}

TEST_F(DeviceTest, AFunctionWithoutAVectorForAQueueIsRefused) {
  auto none = bus(add_function());
  none->answers[{RegionIndex::bar0, offsetof(CommonCfg, queue_msix_vector)}] = kNoVector;
  const auto device = value_or_die(Device::make(loop, std::move(none), config()));
  ASSERT_TRUE(device->map(memory.map()->regions()));
  const auto ring = memory.make_ring(64, FeatureSet{Feature::version_1});
  const auto set = device->set_queue(QueueIndex{0}, {.ring = ring, .kick = {}, .call = {}, .enabled = true});
  ASSERT_FALSE(set);
  EXPECT_NE(set.error().text().find("no interrupt vector"), std::string::npos) << set.error().text();
  EXPECT_FALSE(rigs.back()->device->runs(0)) << "a queue without its interrupt must not start";
}

TEST_F(DeviceTest, TheGroupOfItsBusIsThatOfAQueueThatRuns) {
  auto& rig = add_function();
  auto made = bus(rig);
  BentBus* const bent = made.get();
  const auto device = value_or_die(Device::make(loop, std::move(made), config()));
  Observer observer;
  device->set_observer(&observer);
  ASSERT_TRUE(device->map(memory.map()->regions()));
  ASSERT_TRUE(device->set_features(FeatureSet{Feature::version_1}));
  const auto ring = memory.make_ring(64, FeatureSet{Feature::version_1});
  ASSERT_TRUE(device->set_queue(QueueIndex{0}, {.ring = ring, .kick = {}, .call = {}}));
  EXPECT_EQ(device->vfio_group(QueueIndex{0}), nullptr) << "a bus that is no kernel's";
  bent->a_group.emplace(*make_memfd("group", 4096));
  EXPECT_EQ(device->vfio_group(QueueIndex{0}), &*bent->a_group);
  EXPECT_EQ(device->vfio_group(QueueIndex{1}), nullptr);
  bent->an_observer->bus_gone({.code = Errc::gone, .what = "test"});
  EXPECT_EQ(device->vfio_group(QueueIndex{0}), nullptr);
}

TEST_F(DeviceTest, AFunctionThatNeedsAResetIsGone) {
  auto& rig = add_function();
  const auto device = value_or_die(Device::make(loop, bus(rig), config()));
  Observer observer;
  device->set_observer(&observer);
  ASSERT_TRUE(device->map(memory.map()->regions()));
  const auto ring = memory.make_ring(64, FeatureSet{Feature::version_1});
  ASSERT_TRUE(device->set_queue(QueueIndex{1}, {.ring = ring, .kick = {}, .call = {}, .enabled = true}));
  ASSERT_TRUE(rig.device->runs(1));
  memory.at(ring.available, 4).store<std::uint16_t>(virtio::kRingIndex, 1000, std::memory_order_release);
  rig.device->work();
  while (loop.run_ready()) continue;
  EXPECT_TRUE(device->is_gone());
  EXPECT_EQ(observer.gone, 1);
  EXPECT_EQ(device->stop_queue(QueueIndex{1}, vdpa::StopMode::leave).error().code, Errc::gone);
  EXPECT_TRUE(device->last_state(QueueIndex{1}));
}

struct FunctionCounters : DeviceTest {
  /// A Device with a running queue over a function that has statistics and answers as told.
  std::unique_ptr<Device> start(FeatureSet features = FakeDeviceConfig().features.with(NetFeature::device_stats)) {
    auto& rig = add_function({.features = features});
    rig.device->on_control = [this](std::span<const std::byte> command) {
      ++questions;
      EXPECT_EQ(command[0], std::byte{8});
      return command[1] == std::byte{0} ? types : counts;
    };
    auto device = value_or_die(Device::make(loop, bus(rig), config()));
    EXPECT_TRUE(device->map(memory.map()->regions()));
    const auto ring = memory.make_ring(64, FeatureSet{Feature::version_1});
    if (!device->set_queue(QueueIndex{0}, {.ring = ring, .kick = {}, .call = {}, .enabled = true})) {
      throw std::runtime_error("the queue does not start");
    }
    return device;
  }
  void refresh(Device& device) {
    device.refresh_counters(nullptr);
    for (int i = 0; i < 20; ++i) loop.run_ready();
  }
  static bool has_packets(const Device& device) {
    const auto counters = device.counters(QueueIndex{0});
    return std::ranges::find(counters, "packets", &vdpa::Counter::name) != counters.end();
  }

  vdpa::ControlReply types{.ack = 0, .is_query = true, .data = std::vector(8, std::byte{0xff})};
  vdpa::ControlReply counts{.ack = 0, .is_query = true};
  int questions = 0;
};

TEST_F(FunctionCounters, AreAskedForThoughTheDriverHasNoControlQueue) {
  const auto device = start();
  EXPECT_FALSE(device->info().features.has(NetFeature::device_stats)) << "that is between the function and us";
  counts.data.resize(56);
  counts.data[6] = std::byte{56};
  counts.data[16] = std::byte{7};
  refresh(*device);
  EXPECT_EQ(questions, 2) << "which types there are, and what they say";
  const auto counters = device->counters(QueueIndex{0});
  ASSERT_TRUE(has_packets(*device));
  EXPECT_EQ(counters[1].value, 7U);
  EXPECT_EQ(device->why_uncounted(), "");
  refresh(*device);
  EXPECT_EQ(questions, 3) << "one command each time";
}

TEST_F(FunctionCounters, OfAFunctionWithoutThemAreMissingWithTheReason) {
  const auto device = start(FakeDeviceConfig().features);
  refresh(*device);
  EXPECT_EQ(questions, 0);
  EXPECT_FALSE(has_packets(*device));
  EXPECT_NE(device->why_uncounted().find("device_stats"), std::string::npos);
}

TEST_F(FunctionCounters, ThatMakeNoSenseAreMissingWithTheReason) {
  const auto device = start();
  types.data.resize(3);
  refresh(*device);
  EXPECT_NE(device->why_uncounted().find("in 3 bytes"), std::string::npos) << device->why_uncounted();
  types.data.assign(8, std::byte{0});
  refresh(*device);
  EXPECT_NE(device->why_uncounted().find("counts no packets"), std::string::npos) << device->why_uncounted();
}

TEST_F(FunctionCounters, ThatAreRefusedOrTooLongAreMissingWithTheReason) {
  const auto device = start();
  counts.ack = 1;
  refresh(*device);
  EXPECT_NE(device->why_uncounted().find("refuses"), std::string::npos) << device->why_uncounted();
  counts = {.ack = 0, .is_query = true, .data = std::vector(1000, std::byte{0xff})};
  refresh(*device);
  EXPECT_NE(device->why_uncounted().find("65535 bytes"), std::string::npos) << device->why_uncounted();
  EXPECT_FALSE(has_packets(*device));
}

}  // namespace
}  // namespace causeway::virtio_pci::testing

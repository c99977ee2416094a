// A Device over functions that it must refuse, and over one that goes and comes back.
#include "virtio_pci/device.h"

#include "virtio_pci/fake_device_fixture.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <stdexcept>
#include <utility>

#include "support/guest_memory.h"

namespace causeway::virtio_pci::testing {
namespace {

using vfio::RegionIndex;
using virtio::Feature, virtio::FeatureSet, virtio::QueueIndex;

/// A function as a Bus that may answer wrongly.
class BentBus final : public vfio::Bus {
 public:
  explicit BentBus(Function& function) : bent_info(function.info()), function_(function) {}

  const vfio::BusInfo& info() const override { return bent_info; }
  void set_observer(vfio::BusObserver* observer) override { an_observer = observer; }
  Result<void> read(RegionIndex region, std::uint64_t offset, std::span<std::byte> to) override {
    CW_CHECK(function_.read(region, offset, to));
    const auto answer = answers.find({region, offset});
    if (answer != answers.end()) std::memcpy(to.data(), &answer->second, std::min(to.size(), sizeof answer->second));
    return {};
  }
  Result<void> write(RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) override {
    return function_.write(region, offset, from);
  }
  std::optional<vfio::RegionFile> file_of(RegionIndex region, vfio::Area area) const override {
    return function_.file_of(region, area);
  }
  Result<void> dma_map(const memory::Region& region) override { return function_.dma_map(region); }
  Result<void> dma_unmap(const memory::Region& region) override { return function_.dma_unmap(region); }
  Result<void> enable_vectors(std::uint32_t count) override { return function_.enable_vectors(count); }
  Result<void> set_vector(std::uint32_t vector, const OwnedFd* event) override {
    return function_.set_vector(vector, event);
  }
  Result<void> reset() override { return function_.reset(); }

  vfio::BusInfo bent_info;
  std::map<std::pair<RegionIndex, std::uint64_t>, std::uint32_t> answers;  ///< to a read there
  vfio::BusObserver* an_observer = nullptr;

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

}  // namespace
}  // namespace causeway::virtio_pci::testing

// A function that answers wrongly, against a whole Device. Input: one byte of what the function is (bit 0: it has no
// ring state; bit 1: it keeps no records; bit 2: it has no control queue; bit 3: it has statistics), then what becomes
// of reads of its registers, in their order: a byte below 128 lets that many and one more pass, 255 ends the function,
// any other one is followed by one to eight bytes that are xor'ed to the answer. With statistics, those are what a
// quarter of what is left when the rings run says. Half of what is left when the rings run is written over the records.
#include "base/log.h"
#include "base/mapping.h"
#include "virtio_pci/device.h"
#include "virtio_pci/fake_device_fixture.h"

#include <array>
#include <cstdlib>
#include <span>

extern "C" int LLVMFuzzerInitialize(int*, char***);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace causeway::virtio_pci::testing {
namespace {

using vfio::RegionIndex;
using virtio::FeatureSet, virtio::QueueIndex;

constexpr std::uint64_t kBase = 0x10000;
constexpr std::uint64_t kGuestBytes = 0x10000;
constexpr std::uint64_t kRingBytes = 0x4000;  ///< of each queue
constexpr unsigned kEnd = 255;

void require(bool holds) {
  if (!holds) std::abort();
}

class FuzzedBus final : public vfio::Bus {
 public:
  FuzzedBus(Function& function, std::span<const std::byte>& input) : function_(function), input_(input) {}

  const vfio::BusInfo& info() const override { return function_.info(); }
  void set_observer(vfio::BusObserver* /*observer*/) override {}
  Result<void> read(RegionIndex region, std::uint64_t offset, std::span<std::byte> to) override {
    CW_CHECK(function_.read(region, offset, to));
    if (good_ != 0) {
      --good_;
      return {};
    }
    const auto how = take();
    if (how < 128) {
      good_ = how;
      return {};
    }
    if (how == kEnd) return fail(Errc::gone, "it has ended");
    for (unsigned i = 0; i <= how % 8; ++i) {
      const auto change = static_cast<std::byte>(take());
      if (i < to.size()) to[i] ^= change;
    }
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

 private:
  unsigned take() {
    if (input_.empty()) return 0;
    const auto value = std::to_integer<unsigned>(input_.front());
    input_ = input_.subspan(1);
    return value;
  }

  Function& function_;
  std::span<const std::byte>& input_;
  unsigned good_ = 0;  // reads that are to pass
};

struct Observer final : vdpa::DeviceObserver {
  void config_changed() override {}
  void queue_failed(QueueIndex, Error) override {}
  void device_gone(Error) override {}
};

Worker& worker() {
  static const auto one = value_or_die(Worker::start({.name = "fuzz", .polling = Polling::sleep, .cpu = {}}));
  return *one;
}

class Target {
 public:
  explicit Target(std::span<const std::byte> input)
      : kind_(input.empty() ? 0 : std::to_integer<unsigned>(input.front())),
        input_(input.empty() ? input : input.subspan(1)) {}

  void run() {
    auto device = Device::make_absent(loop_, {.name = "fuzz", .patience = std::chrono::milliseconds(2)});
    device->set_observer(&observer_);
    const auto used = device->use(std::make_unique<FuzzedBus>(*rig_.function, input_));
    if (used) check(device->info());
    drive(*device);
  }

 private:
  static FakeDeviceConfig fake(unsigned kind) {
    FakeDeviceConfig config;
    config.records = (kind & 2) == 0;
    if ((kind & 8) != 0) config.features = config.features.with(virtio::NetFeature::device_stats);
    if ((kind & 4) != 0) config.features = config.features.without(virtio::NetFeature::ctrl_vq);
    return config;
  }
  static void check(const vdpa::DeviceInfo& info) {
    require(info.queues != 0 && info.queues <= DeviceConfig{}.queues);
    require(info.largest_ring != 0 && info.largest_ring <= DeviceConfig{}.largest_ring);
  }
  void pump() {
    for (int i = 0; i < 10 && loop_.run_ready(); ++i) continue;
  }

  /// What a Port does with a Device, from the first look to the last.
  void drive(Device& device) {
    const auto done = [](const auto& /*result*/) {};  // whatever came of it
    std::array<std::byte, 4> bytes{};
    const std::array regions{value_or_die(memory::Region::map(memory::Iova(kBase), memory::FrontendVa(kBase),
                                                              kGuestBytes, value_or_die(guest_.duplicate()), 0))};
    const FeatureSet features = device.info().features;
    done(device.read_config(0, bytes));
    done(device.set_features(features));
    done(device.map(regions));
    for (std::uint16_t i = 0; i < 2; ++i) start(device, QueueIndex{i}, features);
    pump();
    rig_.device->work();
    done(device.control(bytes));
    count(device);
    scribble();
    for (std::uint16_t i = 0; i < 2; ++i) {
      if (const auto area = device.notify_area(QueueIndex{i})) require(area->size == page_size());
      done(device.enable_queue(QueueIndex{i}, false));
      done(device.enable_queue(QueueIndex{i}, true));
      done(device.stop_queue(QueueIndex{i}, i == 0 ? vdpa::StopMode::leave : vdpa::StopMode::drain));
      done(device.last_state(QueueIndex{i}));
    }
    pump();
    start(device, QueueIndex{0}, features);
    done(device.unmap(regions));
    done(device.set_status(vdpa::Status::reset));
    pump();
  }

  /// Statistics that say anything.
  void count(Device& device) {
    const auto answer = input_.first(input_.size() / 4);
    input_ = input_.subspan(answer.size());
    rig_.device->on_control = [answer](std::span<const std::byte> command) {
      vdpa::ControlReply reply{.ack = virtio::kCtrlOk, .is_query = true};
      const bool is_query = command.size() > 1 && command[1] == std::byte{0};
      reply.data = is_query ? std::vector(8, std::byte{0xff}) : std::vector(answer.begin(), answer.end());
      return reply;
    };
    device.refresh_counters(nullptr);
    pump();
    for (std::uint16_t i = 0; i < 4; ++i) require(device.counters(QueueIndex{i}).size() <= 7);
    require(device.why_uncounted().size() < 1000);
    rig_.device->on_control = nullptr;
  }

  static void start(Device& device, QueueIndex index, FeatureSet features) {
    const std::uint64_t at = kBase + virtio::number(index) * kRingBytes;
    const auto layout = virtio::layout_of(features);
    const virtio::RingConfig ring{.size = value_or_die(virtio::QueueSize::make(layout, 64)),
                                  .descriptors = memory::Iova(at),
                                  .available = memory::Iova(at + 0x1000),
                                  .used = memory::Iova(at + 0x2000),
                                  .features = features,
                                  .start = virtio::QueueState::initial(layout)};
    [[maybe_unused]] const auto started =
        device.set_queue(index, {.ring = ring, .kick = *KickFd::make(), .call = *CallFd::make(), .enabled = true});
  }

  /// Half of what is left, so that reads of registers have some.
  void scribble() {
    const auto& shared = rig_.function->info().region(RegionIndex::bar2);
    const auto file = rig_.function->file_of(RegionIndex::bar2, {.offset = 0, .size = shared.size});
    const auto view = value_or_die(Mapping::map(file->fd, file->offset, file->size));
    const std::size_t records = rig_.port->queue_count() * page_size();
    const auto bytes = input_.first(std::min(input_.size() / 2, std::size_t{0x800}));
    if (records + bytes.size() > view->size()) return;
    std::ranges::copy(bytes, view->data() + records);
    input_ = input_.subspan(bytes.size());
  }

  unsigned kind_;
  std::span<const std::byte> input_;
  Loop loop_;
  Observer observer_;
  OwnedFd guest_ = *make_memfd("guest", kGuestBytes);
  FunctionRig rig_{loop_, worker(), fake(kind_), {.ring_state = (kind_ & 1) == 0}};
};

}  // namespace
}  // namespace causeway::virtio_pci::testing

int LLVMFuzzerInitialize(int*, char***) {
  spdlog::set_level(spdlog::level::off);
  return 0;
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace causeway::virtio_pci::testing;
  Target(std::as_bytes(std::span(data, size))).run();
  return 0;
}

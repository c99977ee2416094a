// What a driver does to a function of ours: accesses to its registers in any order, memory that comes and goes, rings
// of any content. Input: steps. A step is one byte of action and what `Target::step` reads for it.
#include "base/log.h"
#include "base/mapping.h"
#include "virtio_pci/capabilities.h"
#include "virtio_pci/fake_device_fixture.h"

#include <array>
#include <cstdlib>
#include <span>

extern "C" int LLVMFuzzerInitialize(int*, char***);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace causeway::virtio_pci::testing {
namespace {

using vfio::RegionIndex;

constexpr std::uint64_t kBase = 0x10000;
constexpr std::uint64_t kPart = 0x4000;  ///< of the guest's memory, that is mapped at once
constexpr std::uint64_t kParts = 4;

void require(bool holds) {
  if (!holds) std::abort();
}

/// Values off the input; zeros when it has ended.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> input) : input_(input) {}
  bool has_more() const { return !input_.empty(); }
  template <class T>
  T take() {
    T value{};
    const auto bytes = take_bytes(sizeof value);
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  std::span<const std::byte> take_bytes(std::size_t size) {
    const auto bytes = input_.first(std::min(size, input_.size()));
    input_ = input_.subspan(bytes.size());
    return bytes;
  }

 private:
  std::span<const std::byte> input_;
};

/// All functions share it: starting a thread takes longer than a run.
Worker& worker() {
  static const auto one = value_or_die(Worker::start({.name = "fuzz", .polling = Polling::sleep, .cpu = {}}));
  return *one;
}

class Target {
 public:
  Target() : memory_(*make_memfd("guest", kParts * kPart)), own_view_(*Mapping::map(memory_, 0, kParts * kPart)) {
    const auto& shared = rig_.function->info().region(RegionIndex::bar2);
    const auto file = rig_.function->file_of(RegionIndex::bar2, {.offset = 0, .size = shared.size});
    shared_view_ = *Mapping::map(file->fd, file->offset, file->size);
  }

  void run(Reader input) {
    while (input.has_more()) step(input);
    end();
  }

 private:
  void step(Reader& input) {
    switch (input.take<std::uint8_t>() % 12) {
      case 0:
        return access(input, false);
      case 1:
        return access(input, true);
      case 2:
        return whatever(rig_.function->dma_map(part(input.take<std::uint8_t>())));
      case 3:
        return whatever(rig_.function->dma_unmap(part(input.take<std::uint8_t>())));
      case 4:
        return whatever(rig_.function->enable_vectors(input.take<std::uint8_t>() % 8));
      case 5: {
        const auto vector = input.take<std::uint8_t>();
        return whatever(rig_.function->set_vector(vector % 8, vector < 0x80 ? &event_.fd() : nullptr));
      }
      case 6:
        return whatever(rig_.function->reset());
      case 7:
        rig_.device->work();
        return pump();
      case 8:
        return scribble(input, *own_view_);
      case 9:
        return scribble(input, *shared_view_);
      case 10:
        return set_up_queue(input);
      default:
        return rig_.set(offsetof(CommonCfg, device_status), input.take<std::uint8_t>());
    }
  }

  static void whatever(const Result<void>& /*result*/) {}
  void pump() {
    for (int i = 0; i < 100; ++i) {
      if (!loop_.run_ready()) return;
    }
    std::abort();  // something is ready for ever
  }

  void access(Reader& input, bool writes) {
    const auto where = input.take<std::uint8_t>();
    const auto region = static_cast<RegionIndex>((where & 0x7f) % vfio::kRegions);
    std::uint64_t offset = input.take<std::uint16_t>();
    if (where >= 0x80) offset = ~offset;  // near the end of the address space
    const std::size_t size = input.take<std::uint8_t>();
    if (writes) return whatever(rig_.function->write(region, offset, input.take_bytes(size)));
    std::vector<std::byte> bytes(size);
    whatever(rig_.function->read(region, offset, bytes));
  }

  memory::Region part(std::uint8_t number) const {
    const std::uint64_t offset = number % kParts * kPart;
    const std::uint64_t at = kBase + offset;
    return value_or_die(memory::Region::map(memory::Iova(at), memory::FrontendVa(at), kPart,
                                            value_or_die(memory_.duplicate()), offset));
  }

  static void scribble(Reader& input, const Mapping& mapping) {
    const auto memory = memory::GuestSpan::over({mapping.data(), mapping.size()});
    for (int i = input.take<std::uint8_t>() % 32; i > 0; --i) {
      const std::size_t offset = input.take<std::uint16_t>() * 2U % mapping.size();
      memory.store(offset, input.take<std::uint16_t>(), std::memory_order_relaxed);
    }
  }

  /// A ring where there may be memory, as a good driver sets it up.
  void set_up_queue(Reader& input) {
    const std::uint16_t queue = input.take<std::uint8_t>() % 4;
    const std::uint64_t ring = kBase + queue * kPart / 2;
    rig_.set(offsetof(CommonCfg, queue_select), queue);
    rig_.set(offsetof(CommonCfg, queue_size), std::uint16_t{input.take<std::uint8_t>()});
    rig_.set(offsetof(CommonCfg, queue_desc), ring);
    rig_.set(offsetof(CommonCfg, queue_driver), ring + 0x1000);
    rig_.set(offsetof(CommonCfg, queue_device), ring + 0x1400);
    rig_.set(offsetof(CommonCfg, queue_enable), std::uint16_t{1});
  }

  /// Whatever the driver has done, a reset and the end of its memory leave nothing behind.
  void end() {
    pump();
    require(rig_.function->reset().has_value());
    require(rig_.get<std::uint8_t>(offsetof(CommonCfg, device_status)) == 0);
    require(rig_.device->queues.empty());
    const auto regions = rig_.port->memory().regions();
    for (const memory::Region& region : regions) require(rig_.function->dma_unmap(region).has_value());
    require(rig_.device->regions.empty());
    require(parse_config_space(rig_.config_space(), rig_.function->info()).has_value());
    pump();
  }

  Loop loop_;
  FunctionRig rig_{loop_, worker()};
  OwnedFd memory_;
  std::shared_ptr<const Mapping> own_view_;
  std::shared_ptr<const Mapping> shared_view_;
  EventFd event_ = *EventFd::make();
};

}  // namespace
}  // namespace causeway::virtio_pci::testing

int LLVMFuzzerInitialize(int*, char***) {
  spdlog::set_level(spdlog::level::off);
  return 0;
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace causeway::virtio_pci::testing;
  Target target;
  target.run(Reader(std::as_bytes(std::span(data, size))));
  return 0;
}

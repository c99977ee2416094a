#include "daemon/accelerator.h"

#include "base/log.h"
#include "vfio/kernel_bus.h"
#include "vfio_user/client.h"

#include <algorithm>
#include <utility>

namespace causeway::daemon {
namespace {

/// For each reply of a function in another process: all ports wait as long.
constexpr std::chrono::milliseconds kPatience{1000};

}  // namespace

Accelerator::Made Accelerator::make(Loop& loop, const config::DeviceConfig& function, const config::PortConfig& port) {
  std::unique_ptr<Accelerator> keeper(new Accelerator(loop, function));
  auto device = virtio_pci::Device::make_absent(
      loop, {.name = function.name,
             .type = port.device,
             .queues = port.disk ? port.disk->queues : static_cast<std::uint16_t>(2 * port.queue_pairs),
             .largest_ring = port.queue_size,
             .on_gone = [self = keeper.get()] { self->try_later(); }});
  keeper->device_ = device.get();
  keeper->try_now();
  return {.device = std::move(device), .keeper = std::move(keeper)};
}

Accelerator::~Accelerator() = default;

Result<std::unique_ptr<vfio::Bus>> Accelerator::open() const {
  if (function_.kind == config::DeviceConfig::Kind::vfio) {
    CW_TRY(auto bus, vfio::KernelBus::open(loop_, function_.address));
    return std::unique_ptr<vfio::Bus>(std::move(bus));
  }
  CW_TRY(auto bus, vfio_user::Client::connect(loop_, {.path = function_.socket, .patience = kPatience}));
  return std::unique_ptr<vfio::Bus>(std::move(bus));
}

void Accelerator::try_now() {
  device_->let_go();
  const auto begin = std::chrono::steady_clock::now();
  auto done = [&]() -> Result<void> {
    CW_TRY(auto bus, open());
    return device_->use(std::move(bus));
  }();
  if (done) {
    log::info("device {}: {} queues at '{}{}'", function_.name, device_->info().queues, function_.socket,
              function_.address);
    back_off_ = kFirstBackOff;
    last_complaint_.clear();
    return;
  }
  if (auto complaint = done.error().text(); complaint != last_complaint_) {
    log::warn("device {}: not there, tries again: {}", function_.name, complaint);
    last_complaint_ = std::move(complaint);
  }
  // A process that hangs lets every port wait; to ask it again soon would only do so again.
  if (std::chrono::steady_clock::now() - begin >= kPatience) back_off_ = kHungBackOff;
  try_later();
}

void Accelerator::try_later() {
  retry_.emplace(loop_.after(back_off_, [this] { try_now(); }));
  back_off_ = std::clamp(2 * back_off_, kFirstBackOff, kLongestBackOff);
}

}  // namespace causeway::daemon

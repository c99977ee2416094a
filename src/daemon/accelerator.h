// Keeps a Device supplied with the virtio-pci function that the configuration names, as often as that comes and goes.
#pragma once

#include "base/loop.h"
#include "daemon/config/config.h"
#include "vfio/bus.h"
#include "virtio_pci/device.h"

#include <chrono>
#include <memory>
#include <optional>
#include <string>

namespace causeway::daemon {

/// Looks for the function at once, and again and again while it is not there. Thread: control.
class Accelerator {
 public:
  /// Makes `device` and this, which refers to it: the Device is to be destroyed after this. `loop` must outlive both.
  struct Made;
  static Made make(Loop& loop, const config::DeviceConfig& function, const config::PortConfig& port);
  Accelerator(const Accelerator&) = delete;
  Accelerator& operator=(const Accelerator&) = delete;
  ~Accelerator();

  /// Time between two attempts: the first, doubled up to the longest.
  static constexpr std::chrono::milliseconds kFirstBackOff{100};
  static constexpr std::chrono::milliseconds kLongestBackOff{2000};
  /// After an attempt that was not answered.
  static constexpr std::chrono::milliseconds kHungBackOff{30'000};

 private:
  Accelerator(Loop& loop, config::DeviceConfig function) : loop_(loop), function_(std::move(function)) {}
  Result<std::unique_ptr<vfio::Bus>> open() const;
  void try_now();
  void try_later();

  Loop& loop_;
  config::DeviceConfig function_;
  virtio_pci::Device* device_ = nullptr;
  std::chrono::milliseconds back_off_ = kFirstBackOff;
  std::string last_complaint_;  // the log says each once
  std::optional<Loop::Registration> retry_;
};

struct Accelerator::Made {
  std::unique_ptr<virtio_pci::Device> device;
  std::unique_ptr<Accelerator> keeper;
};

}  // namespace causeway::daemon

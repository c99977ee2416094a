// A Device that is a virtio-pci function, behind the kernel's VFIO or a vfio-user socket: it works the guest's rings
// itself. Spec: virtio 1.3 section 4.1.
#pragma once

#include "base/event_fd.h"
#include "base/loop.h"
#include "base/mapping.h"
#include "memory/memory_map.h"
#include "vdpa/device.h"
#include "vfio/bus.h"
#include "virtio_pci/capabilities.h"
#include "virtio_pci/control_driver.h"
#include "virtio_pci/registers.h"
#include "virtio_pci/ring_state.h"
#include "virtio_pci/statistics.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace causeway::virtio_pci {

struct DeviceConfig {
  std::string name;  ///< of the Device, unique on its port
  virtio::DeviceType type = virtio::DeviceType::net;
  std::uint16_t queues = 2;                  ///< data queues wanted; a function that has fewer gives fewer
  std::uint32_t largest_ring = 1024;         ///< entries; no more are offered
  std::chrono::milliseconds patience{1000};  ///< for the function to reset, and for a queue to drain
  /// Called when the function has gone, after the observer; `use` must not be called from within.
  std::function<void()> on_gone = nullptr;
};

/// Doorbell and interrupt go past us: the guest writes to the function's notify area where the front-end can map it,
/// and the function signals the guest's call eventfd. A kick that comes on the eventfd is passed on from the loop.
///
/// A function with the ring-state capability starts at any position, says where it has stopped and what is in flight,
/// even after its death. One without (a plain function) begins each ring at its start and says nothing, so that: packed
/// rings are not offered, a ring in use is refused, a queue that stops must drain first, and of what did not drain
/// receive buffers and disk requests are run again by the next Device, transmit buffers are used unsent.
///
/// A queue that moves away and comes back finds its registers and its interrupt as it has left them: a function with
/// ring state then needs no more than to be told to start.
///
/// Invariants: (1) info() never changes once there has been a function; (2) a queue is enabled in the function only if
/// it is enabled here; (3) the function reaches the memory that was mapped, and a control ring of ours. Thread:
/// control.
class Device final : public vdpa::Device, private vfio::BusObserver {
 public:
  /// Without a function, which may come later: until then it is a Device that has gone. `loop` must outlive it.
  static std::unique_ptr<Device> make_absent(Loop& loop, DeviceConfig config);
  /// The same with a function from the start; the errors are those of `use`.
  static Result<std::unique_ptr<Device>> make(Loop& loop, std::unique_ptr<vfio::Bus> bus, DeviceConfig config);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() override;

  /// Takes a function over in the place of one that is not there, or not any more: resets it and learns what it is; the
  /// observer is told. Errc::not_supported: it is no modern virtio function of that type, or offers less than the one
  /// before; Errc::peer_violation: its configuration space is broken; Errc::gone. All name the Device and the bus.
  Result<void> use(std::unique_ptr<vfio::Bus> bus);
  /// Closes a function that has gone, which may only have to be opened anew: there can be one user at a time. Not to be
  /// called from within a call of the Bus.
  void let_go();
  bool is_gone() const { return gone_.has_value(); }

  const vdpa::DeviceInfo& info() const override { return info_; }
  void set_observer(vdpa::DeviceObserver* observer) override;
  Result<void> set_features(virtio::FeatureSet features) override;
  vdpa::Status status() const override { return status_; }
  Result<void> set_status(vdpa::Status status) override;
  Result<void> read_config(std::uint32_t offset, std::span<std::byte> to) const override;
  Result<void> write_config(std::uint32_t offset, std::span<const std::byte> from) override;
  std::uint32_t config_generation() const override { return generation_; }
  Result<void> map(std::span<const memory::Region> regions) override;
  Result<void> unmap(std::span<const memory::Region> regions) override;
  Result<void> set_queue(virtio::QueueIndex queue, vdpa::QueueSetup setup) override;
  Result<void> enable_queue(virtio::QueueIndex queue, bool enabled) override;
  Result<void> set_call(virtio::QueueIndex queue, std::optional<CallFd> call) override;
  Result<vdpa::QueueState> stop_queue(virtio::QueueIndex queue, vdpa::StopMode mode) override;
  std::optional<vdpa::QueueState> last_state(virtio::QueueIndex queue) const override;
  std::optional<vdpa::QueueState> former_state(virtio::QueueIndex queue, const virtio::RingConfig& ring) override;
  std::optional<vdpa::NotifyArea> notify_area(virtio::QueueIndex queue) const override;
  /// That of the Bus: one for all queues.
  const OwnedFd* vfio_group(virtio::QueueIndex queue) const override;
  std::optional<virtio::QueueIndex> control_queue(virtio::FeatureSet features) const override;
  vdpa::ControlReply control(std::span<const std::byte> command) override;
  std::vector<vdpa::Counter> counters(virtio::QueueIndex queue) const override;
  void refresh_counters(const std::shared_ptr<void>& token) override;
  std::string why_uncounted() const override;
  /// The function's own configuration space has it; nothing can be told.
  Result<void> set_mtu(std::uint16_t /*mtu*/) override { return {}; }

 private:
  struct Queue {
    vdpa::QueueSetup setup;
    bool started = false;  // in the function
    std::optional<Loop::Registration> watch_kick;
  };
  /// What rings a queue of the function; constant over the function's life.
  struct Bell {
    std::uint64_t offset;                 // in the notification area's BAR
    std::shared_ptr<const Mapping> page;  // where it can be mapped here
  };
  /// The registers of a queue, as they were written since the function's last reset.
  struct Written {
    virtio::QueueSize size;
    memory::Iova descriptors, available, used;
    std::uint16_t vector;
    bool operator==(const Written&) const = default;
  };

  Device(Loop& loop, DeviceConfig config);

  // vfio::BusObserver
  void bus_wanted_back() override;
  void bus_gone(Error reason) override;

  // device.cpp
  Result<void> learn();
  Result<vdpa::DeviceInfo> describe();
  Result<void> listen();
  void leave(Error reason);
  Result<std::uint16_t> count_queues(virtio::FeatureSet offered);
  Result<virtio::FeatureSet> read_features() const;
  Result<void> read_space(std::uint32_t offset, std::span<std::byte> to) const;
  Result<void> reset();
  Result<void> negotiate(virtio::FeatureSet features);
  Result<void> write_status(std::uint8_t status);
  void on_config_event();
  virtio::FeatureSet transport_features() const;

  // device_queue.cpp
  Result<Queue*> find(virtio::QueueIndex queue);
  Result<void> check_start(virtio::QueueIndex index, const vdpa::QueueSetup& setup) const;
  Result<void> start(virtio::QueueIndex index, Queue& queue);
  Result<void> write_ring(virtio::QueueIndex index, const virtio::RingConfig& ring, std::uint16_t vector);
  Result<void> write_registers(virtio::QueueIndex index, const Written& wanted);
  Result<void> begin_rings(const virtio::RingConfig& ring);
  Result<void> start_control(virtio::FeatureSet features);
  Result<void> lend_call(virtio::QueueIndex index, const std::optional<CallFd>& call);
  Result<void> take_calls_back();
  Result<void> learn_bell(virtio::QueueIndex queue);
  Result<std::uint64_t> notify_offset(virtio::QueueIndex queue) const;
  std::optional<vfio::RegionFile> notify_page(std::uint64_t offset) const;
  void ring_doorbell(virtio::QueueIndex index, const Bell& bell);
  Result<vdpa::QueueState> halt(virtio::QueueIndex index, Queue& queue, vdpa::StopMode mode);

  // device_statistics.cpp
  virtio::FeatureSet own_features() const;
  std::uint16_t queues_with(virtio::FeatureSet features) const;
  bool ask_types();
  bool ask_counters();
  bool note_answer(const Result<void>& answer);
  void finish_asking();

  // device_plain.cpp: functions that say nothing of their rings
  Result<vdpa::QueueState> halt_plain(virtio::QueueIndex index, Queue& queue);
  Result<void> reset_queue(virtio::QueueIndex index) const;
  Result<void> reset_all_queues();
  void drain(virtio::QueueIndex index, const virtio::RingConfig& ring) const;
  Result<vdpa::QueueState> position_after_reset(virtio::QueueIndex index, const virtio::RingConfig& ring) const;
  bool is_transmit(virtio::QueueIndex index) const;

  Loop& loop_;
  std::unique_ptr<vfio::Bus> bus_;  // nullptr: never there
  DeviceConfig config_;
  vdpa::DeviceInfo info_{};
  vdpa::DeviceObserver* observer_ = nullptr;
  std::optional<FunctionLayout> layout_;
  std::optional<Registers<CommonCfg>> common_;
  std::optional<RingState> ring_state_;
  virtio::FeatureSet offered_;                    // by the function
  std::optional<virtio::FeatureSet> negotiated_;  // with the driver, without those of the transport
  std::uint8_t function_status_ = 0;
  vdpa::Status status_ = vdpa::Status::reset;
  std::uint16_t control_index_ = 0;  // 0: none
  std::uint32_t vectors_ = 0;
  std::uint32_t generation_ = 0;
  std::shared_ptr<const memory::MemoryMap> map_ = memory::MemoryMap::empty();
  std::map<virtio::QueueIndex, Queue> queues_;
  std::map<virtio::QueueIndex, Bell> bells_;  // of queues that have been started
  std::map<virtio::QueueIndex, Written> written_;
  std::map<virtio::QueueIndex, CallFd> calls_;                  // what queues' vectors signal
  std::map<virtio::QueueIndex, vdpa::QueueState> last_states_;  // of a function that has gone
  std::optional<Error> gone_;
  bool has_been_there_ = false;
  std::optional<EventFd> config_event_;
  std::optional<Loop::Registration> watch_config_;
  std::unique_ptr<ControlDriver> control_;
  std::map<virtio::QueueIndex, std::uint64_t> kicks_;  // passed on
  Statistics statistics_;
  std::string statistics_fault_;  // of the last answer
  bool is_asking_ = false;
  std::vector<std::shared_ptr<void>> waiting_for_counters_;  // let go when they have come
  std::optional<Loop::Registration> tell_soon_;
};

}  // namespace causeway::virtio_pci

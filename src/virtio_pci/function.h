// A port's guest device as a modern virtio-pci function: a driver of anybody's can use it, through a vfio-user server
// or, in the same process, as any vfio::Bus. Spec: virtio 1.3 section 4.1.
#pragma once

#include "base/event_fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/worker.h"
#include "port/port.h"
#include "vfio/bus.h"
#include "virtio_pci/config_space.h"
#include "virtio_pci/doorbells.h"
#include "virtio_pci/layout.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace causeway::virtio_pci {

/// The BAR that clients map: doorbells and records.
inline constexpr std::uint8_t kSharedBar = 2;

struct FunctionConfig {
  /// Offers the ring-state capability. Off: as a plain function, of which nobody learns where its rings stand.
  bool ring_state = true;
};

/// BAR 0 has the registers and MSI-X, BAR 2 a doorbell page for each queue, which a client may map, and the records of
/// what is in flight. The function reaches client memory only through what was mapped for it.
///
/// Invariants: (1) a queue runs from DRIVER_OK on if it is enabled, until it is reset or stopped; (2) it is the port's
/// driver side as long as it exists; (3) a driver that breaks a rule hurts its own queue: NEEDS_RESET. Thread: control.
class Function final : public vfio::Bus, private port::DriverSide {
 public:
  /// Attaches to the port; Errc::busy when that has a driver side already. Doorbells are looked at on `worker`. All
  /// must outlive it.
  static Result<std::unique_ptr<Function>> make(Loop& loop, port::Port& port, Worker& worker, FunctionConfig config);
  Function(const Function&) = delete;
  Function& operator=(const Function&) = delete;
  ~Function() override;

  const vfio::BusInfo& info() const override { return info_; }
  /// Never called: it lives as long as its owner.
  void set_observer(vfio::BusObserver* /*observer*/) override {}
  Result<void> read(vfio::RegionIndex region, std::uint64_t offset, std::span<std::byte> to) override;
  Result<void> write(vfio::RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) override;
  std::optional<vfio::RegionFile> file_of(vfio::RegionIndex region, vfio::Area area) const override;
  Result<void> dma_map(const memory::Region& region) override;
  Result<void> dma_unmap(const memory::Region& region) override;
  Result<void> enable_vectors(std::uint32_t count) override;
  Result<void> set_vector(std::uint32_t vector, const OwnedFd* event) override;
  Result<void> reset() override;

  /// Stores that were found in the queue's doorbell page.
  std::uint64_t doorbells(virtio::QueueIndex queue) const { return bells_->rung(virtio::number(queue)); }

 private:
  struct Queue {
    std::uint16_t size = 0;
    std::uint16_t vector = kNoVector;
    bool enabled = false;
    bool running = false;
    std::uint64_t descriptors = 0;
    std::uint64_t driver = 0;
    std::uint64_t device = 0;
    std::optional<KickFd> kick;  // from its first start to the reset: no stop need wait for the doorbells' worker
    std::optional<ErrFd> err;
    std::optional<Loop::Registration> watch_err;
  };

  Function(Loop& loop, port::Port& port, FunctionConfig config);
  Result<void> lay_out(Worker& worker);
  void describe();
  std::size_t queue_count() const { return queues_.size(); }
  virtio::FeatureSet offered() const;

  // port::DriverSide
  void config_changed() override;
  void memory_lost() override;
  /// The doorbells are memory of ours: a page of another device cannot take their place.
  void offer_notify_area(virtio::QueueIndex /*queue*/, const vdpa::NotifyArea& /*area*/) override {}
  void withdraw_notify_area(virtio::QueueIndex /*queue*/) override {}
  port::Doorbell doorbell(virtio::QueueIndex /*queue*/) const override { return port::Doorbell::refused; }

  // function.cpp; one of `read` and `written` is empty
  Result<void> transfer(vfio::RegionIndex region, std::uint64_t offset, std::span<std::byte> read,
                        std::span<const std::byte> written);
  void access_config(std::uint64_t offset, std::span<std::byte> read, std::span<const std::byte> written);
  void access_registers(std::uint64_t offset, std::span<std::byte> read, std::span<const std::byte> written);
  void access_device(std::uint64_t offset, std::span<std::byte> read, std::span<const std::byte> written);
  void through_window(std::span<std::byte> read, std::span<const std::byte> written);

  // function_registers.cpp
  CommonCfg common() const;
  void write_common(std::size_t offset, std::span<const std::byte> from);
  void set_status(std::uint8_t status);
  bool accept_features();
  RingStateCfg ring_state() const;
  void write_ring_state(std::size_t offset, std::span<const std::byte> from);

  // function_queues.cpp
  void start_queues();
  void enable(std::uint16_t index, bool enabled);
  void try_to_start(std::uint16_t index);
  Result<void> start(std::uint16_t index, Queue& queue);
  bool halt(std::uint16_t index, vdpa::StopMode mode);
  void reset_queue(std::uint16_t index);
  void stop_queue(std::uint16_t index, std::uint16_t command);
  void choose_record(std::uint16_t entries);
  void reset_device();
  void ring(std::uint64_t offset);
  std::optional<CallFd> call_of(std::uint16_t vector) const;
  void use_vector(std::uint16_t vector);
  void fail_queue(std::uint16_t index, const Error& why);

  Loop& loop_;
  port::Port& port_;
  FunctionConfig config_;
  vfio::BusInfo info_;
  ConfigSpace space_;
  std::size_t window_cap_ = 0;     // where the capability for access through configuration space is
  std::optional<OwnedFd> shared_;  // BAR 2
  std::uint64_t record_offset_ = 0;
  std::uint64_t record_bytes_ = 0;
  std::unique_ptr<Doorbells> bells_;
  std::vector<std::byte> msix_table_;  // kept for whoever reads it; a client masks vectors itself
  std::vector<std::optional<CallFd>> vectors_;
  std::vector<Queue> queues_;

  // Registers, as the driver has left them.
  std::uint32_t device_feature_select_ = 0;
  std::uint32_t driver_feature_select_ = 0;
  std::uint64_t driver_features_ = 0;
  std::uint16_t config_vector_ = kNoVector;
  std::uint8_t status_ = 0;
  std::uint8_t generation_ = 0;
  std::uint8_t isr_ = 0;
  std::uint16_t queue_select_ = 0;
  std::uint16_t record_entries_ = 0;
  std::uint16_t stop_select_ = 0;
  std::uint16_t stop_result_ = 0;
  bool is_attached_ = false;
  log::RateLimit log_limit_;
};

}  // namespace causeway::virtio_pci

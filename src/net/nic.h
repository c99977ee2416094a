// The software NIC: a vdpa::Device whose queues are worked by the worker of the link it is connected to.
// Spec: virtio 1.3 section 5.1.
#pragma once

#include "base/loop.h"
#include "net/counters.h"
#include "net/driver_settings.h"
#include "net/link.h"
#include "net/nic_config.h"
#include "vdpa/device.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace causeway::net {

/// Queue 2N receives and queue 2N + 1 transmits for pair N. Several NICs may share one link, which outlives them; each
/// pair then runs on one of them at a time. Thread: control; the queues run on the link's worker.
class Nic final : public vdpa::Device {
 public:
  static Result<std::unique_ptr<Nic>> make(Loop& loop, NicConfig config, std::shared_ptr<Link> link);
  ~Nic() override;

  const vdpa::DeviceInfo& info() const override { return info_; }
  void set_observer(vdpa::DeviceObserver* observer) override { observer_ = observer; }
  Result<void> set_features(virtio::FeatureSet features) override;
  vdpa::Status status() const override { return status_; }
  Result<void> set_status(vdpa::Status status) override;
  Result<void> read_config(std::uint32_t offset, std::span<std::byte> to) const override;
  Result<void> write_config(std::uint32_t offset, std::span<const std::byte> from) override;
  std::uint32_t config_generation() const override { return generation_; }
  Result<void> map(std::span<const memory::Region> regions) override;
  Result<void> unmap(std::span<const memory::Region> regions) override;
  /// Those that transmit. One that receives must know where its buffers are before a frame comes: it leaves that to a
  /// relay, which takes them ahead.
  bool translates(vdpa::QueueIndex queue) const override { return number(queue) % 2 == 1; }
  Result<void> set_translations(const std::shared_ptr<const memory::MemoryMap>& map,
                                const memory::IovaRange* gone) override;
  std::uint64_t translated(vdpa::QueueIndex queue) const override {
    return counters_[number(queue)].translated.value();
  }
  Result<void> set_queue(vdpa::QueueIndex queue, vdpa::QueueSetup setup) override;
  Result<void> enable_queue(vdpa::QueueIndex queue, bool enabled) override;
  Result<void> set_call(vdpa::QueueIndex queue, std::optional<CallFd> call) override;
  Result<vdpa::QueueState> stop_queue(vdpa::QueueIndex queue, vdpa::StopMode mode) override;
  std::optional<vdpa::QueueIndex> control_queue(virtio::FeatureSet features) const override;
  vdpa::ControlReply control(std::span<const std::byte> command) override;
  std::vector<vdpa::Counter> counters(vdpa::QueueIndex queue) const override;
  /// A driver with GUEST_ANNOUNCE whose control queue comes here is asked to announce itself, until it acknowledges;
  /// for any other we send the announcement. With a VMM that keeps the control queue, as QEMU does with vhost-user,
  /// that is always the case: the driver's acknowledgement would not reach us.
  Result<void> announce(std::span<const std::byte, 6> mac) override;
  Result<void> set_mtu(std::uint16_t mtu) override;
  /// Plugs the cable in or out, as the driver sees it (STATUS), for the whole link. A NIC is born plugged in.
  void set_link(bool up);

 private:
  /// A running pair half, as the control thread knows it.
  struct Running {
    std::unique_ptr<TransmitQueue> transmit;
    std::unique_ptr<ReceiveQueue> receive;
    std::optional<KickFd> kick;
    bool is_translated = false;
    bool is_set() const { return transmit != nullptr || receive != nullptr; }
  };

  Nic(Loop& loop, NicConfig config, std::shared_ptr<Link> link);
  Result<Running*> running(vdpa::QueueIndex queue);
  Result<void> replace_map(std::vector<memory::Region> regions);
  Result<void> attach(std::uint16_t pair, bool transmits, bool enabled, Running& running);
  void on_fault(vdpa::QueueIndex queue, Error reason);
  Link::OnFault fault_handler();
  TransmitQueue::OnMiss miss_handler(vdpa::QueueIndex queue);
  void start_over(virtio::FeatureSet features);
  void change_config();
  bool wants_to_announce() const;

  Loop& loop_;
  NicConfig config_;
  std::shared_ptr<Link> link_;
  vdpa::DeviceInfo info_;
  vdpa::DeviceObserver* observer_ = nullptr;
  virtio::FeatureSet features_;
  vdpa::Status status_ = vdpa::Status::reset;
  std::uint32_t generation_ = 0;
  std::shared_ptr<const memory::MemoryMap> map_;
  std::shared_ptr<const memory::MemoryMap> translations_;  // behind an IOMMU, where there is one
  DriverSettings settings_;
  bool is_up_ = true;
  bool asks_to_announce_ = false;
  bool has_control_ = false;  // the driver's control queue comes here: a command has been seen since negotiation
  std::vector<Running> queues_;
  std::vector<QueueCounters> counters_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for news from the worker that come too late
};

}  // namespace causeway::net

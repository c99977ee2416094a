// A learning layer-2 switch. A frame is copied once: from the sender's buffer into the receiver's.
#pragma once

#include "base/worker.h"
#include "net/link.h"
#include "net/mac_table.h"
#include "net/offload.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace causeway::net {

class SwitchPort;

/// All ports of a switch are worked by one worker, so frames pass between them without a lock. A switch is to outlive
/// its ports. Thread: worker, but for construction, `add_port` and destruction (control).
class Switch final : public Task {
 public:
  Switch(Worker& worker, std::string name);
  ~Switch() override;

  /// A port of this switch; it leaves the switch when it is destroyed.
  std::unique_ptr<Link> add_port(std::string name);
  Worker& worker() const { return worker_; }
  const std::string& name() const { return name_; }

  std::uint32_t poll() override;
  bool arm() override;
  void disarm() override;

 private:
  friend class SwitchPort;
  std::uint32_t poll_queue(SwitchPort& from, std::uint16_t pair);
  /// Who takes a frame just as it is, in the usual case; nullptr: `forward` decides. Sets `follows` when a plain frame
  /// with the same Ethernet header may follow it without a further look.
  ReceiveQueue* direct_receiver(SwitchPort& from, Frame& frame, bool& follows);
  /// `sender`: the counters of the queue it came from, where it counts when it is lost on the way.
  Delivery forward(SwitchPort& from, Frame& frame, QueueCounters& sender);
  Delivery flood(const SwitchPort* from, Frame& frame, QueueCounters& sender);
  Delivery deliver(SwitchPort& to, Frame& frame, QueueCounters& sender);
  void deliver_resolved(ReceiveQueue& queue, const Frame& frame, QueueCounters& sender);

  Worker& worker_;
  std::string name_;
  std::vector<SwitchPort*> ports_;
  MacTable table_;
  std::uint32_t now_ = 0;  // seconds of a steady clock, read once a batch
  Resolver resolver_;
  std::vector<std::byte> linear_;  // a frame copied whole, for the slow path
};

}  // namespace causeway::net

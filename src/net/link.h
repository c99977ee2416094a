// What a port's NICs are connected to. All software NICs of one port share one link, so that a queue can be moved
// between them while traffic goes on.
#pragma once

#include "base/worker.h"
#include "net/capture.h"
#include "net/driver_settings.h"
#include "net/frame.h"
#include "net/receive_queue.h"
#include "net/transmit_queue.h"

#include <array>
#include <bitset>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace causeway::net {

inline constexpr std::uint16_t kMaxQueuePairs = 16;

/// What became of a frame that was given to a link's receive queues.
enum class Delivery : std::uint8_t {
  done,  ///< delivered, or dropped and counted
  wait,  ///< the receiver's queue is being moved: offer the frame again
};

/// The port's end of a connection: its queue pairs, and who may receive. Subclasses move the frames.
///
/// Invariants: (1) everything but construction and `worker()` happens on the worker's thread; (2) a queue that was
/// stopped while enabled is awaited for at most `kPatience`, and then treated as absent; (3) queues are the NIC's, and
/// are detached before they are destroyed.
class Link {
 public:
  /// How long frames wait for a receive queue that is being moved.
  static constexpr std::chrono::milliseconds kPatience{1000};
  using OnFault = std::function<void(std::uint16_t pair, bool transmit, virtio::RingFault fault)>;

  Link(Worker& worker, std::string name) : worker_(worker), name_(std::move(name)) {}
  virtual ~Link() = default;
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  Worker& worker() const { return worker_; }
  const std::string& name() const { return name_; }

  void attach(std::uint16_t pair, TransmitQueue& queue, OnFault on_fault);
  void attach(std::uint16_t pair, ReceiveQueue& queue, OnFault on_fault);
  void detach_transmit(std::uint16_t pair);
  void detach_receive(std::uint16_t pair);
  void enable_transmit(std::uint16_t pair, bool enabled);
  void enable_receive(std::uint16_t pair, bool enabled);
  /// What the driver has decided by the control virtqueue.
  void set_settings(const DriverSettings& settings);
  /// A link that is down carries nothing: what a driver sends is dropped, and nothing is given to it. It is up at
  /// first.
  void set_up(bool up);

  /// From now on copies of all frames that pass the queues go to a new capture, which ends the one before; no longer
  /// ones than `longest` bytes are kept whole. A link that captures nothing pays nothing.
  void start_capture(std::uint32_t longest);
  void stop_capture();
  bool is_captured() const { return capture_ != nullptr; }
  /// What has been captured since the last call; there must be a capture.
  Capture::Batch take_captured() { return capture_->take(); }

  /// What became of a frame that was to be given to the driver as if it had come over the link.
  enum class Given : std::uint8_t {
    done,
    no_queue,   ///< no receive queue runs here
    no_buffer,  ///< the driver has no buffers left, now
    too_long,   ///< for the driver's buffers
    filtered,   ///< the driver does not want it: address or VLAN
  };
  /// `frame`: from the Ethernet header on, which must be there; it is not changed.
  Given give(std::span<std::byte> frame);

  /// Features that a NIC on this link cannot offer, whatever its configuration. Thread: control.
  virtual virtio::FeatureSet unsupported() const { return {}; }
  /// Sends a frame of our own, as if the driver had sent it.
  virtual void inject(std::span<const std::byte> frame) = 0;
  /// The largest payload behind an Ethernet header, without offloads.
  virtual void set_mtu(std::uint16_t /*mtu*/) {}

  /// Consumes one batch of what a disabled transmit queue holds; returns how many frames it was.
  static std::uint32_t drop_all(TransmitQueue& queue);

 protected:
  struct Pair {
    TransmitQueue* transmit = nullptr;
    ReceiveQueue* receive = nullptr;
    OnFault on_transmit_fault;
    OnFault on_receive_fault;
    bool transmit_enabled = false;  // and the link is up; so for the next
    bool receive_enabled = false;
    std::optional<std::chrono::steady_clock::time_point> awaited_since;  // its receive queue is being moved
  };

  std::array<Pair, kMaxQueuePairs>& pairs() { return pairs_; }
  std::uint16_t pair_count() const { return pair_count_; }
  const ReceiveFilter& filter() const { return settings_.filter(); }
  /// Called when a receive queue comes or goes.
  virtual void receivers_changed() {}

  /// Which receive queue a frame goes to; nullptr: none. Sets `wait` when it is being moved. Costs a hash when there
  /// are several receivers, or the driver has configured one.
  ReceiveQueue* receiver_for(const Frame& frame, bool& wait);
  /// The hash that the driver has configured, of the frame that `receiver_for` was asked about last; none without RSS
  /// and HASH_REPORT.
  const HashResult& hash() const { return hash_; }
  /// Whether all frames go to the same receive queue, unhashed.
  bool has_one_way() const { return receivers_.size() == 1 && !settings_.hash().is_used() && !settings_.steering(); }
  /// Whether `steer` has anything to remember.
  bool has_steering() const { return receivers_.size() > 1; }
  /// Counts at the frame's sender why `receiver_for` found nobody.
  void count_lost(QueueCounters& sender) const;
  /// Remembers on which pair a flow was sent, to receive it there too.
  void steer(const Frame& frame, std::uint16_t pair);
  /// Reports queues that have broken since, and takes them out.
  void report_faults();
  void flush_receivers();
  bool arm_transmitters();
  void disarm_transmitters();

 private:
  /// The queues of a pair as the NIC gave them, and what stands before them while they are captured.
  struct Captured {
    TransmitQueue* transmit = nullptr;
    ReceiveQueue* receive = nullptr;
    std::unique_ptr<TransmitQueue> before_transmit;
    std::unique_ptr<ReceiveQueue> before_receive;
  };

  void update();
  void place_queues();
  void place_transmit(std::uint16_t pair);
  void place_receive(std::uint16_t pair);
  ReceiveQueue* any_receiver();
  void apply_offloads(ReceiveQueue& queue) const;
  std::optional<std::uint16_t> choose(const Frame& frame);
  std::uint16_t spread(const Frame& frame) const;

  Worker& worker_;
  std::string name_;
  std::array<Pair, kMaxQueuePairs> pairs_;
  std::unique_ptr<Capture> capture_;  // when there is one
  std::array<Captured, kMaxQueuePairs> captured_;
  std::uint16_t pair_count_ = 0;          // pairs to look at: one more than the highest in use
  std::vector<std::uint16_t> receivers_;  // enabled receive queues, running or awaited
  std::array<std::uint8_t, 256> steering_{};
  DriverSettings settings_;
  HashResult hash_;
  bool lost_waiting_ = false;  // since its receive queue did not come back in time, and no other took over
  bool is_up_ = true;
  std::bitset<kMaxQueuePairs> transmit_wanted_;  // enabled, whether the link is up or not
  std::bitset<kMaxQueuePairs> receive_wanted_;
};

}  // namespace causeway::net

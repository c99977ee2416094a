// A driver side and a device side on one ring, and between them a model that is a few plain lists.
#pragma once

#include "base/mapping.h"
#include "base/owned_fd.h"
#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "notification_model.h"
#include "support/guest_memory.h"

namespace causeway::testing {

/// What is varied about a ring before anything happens on it.
struct RingShape {
  virtio::FeatureSet features;
  std::uint32_t entries;
  /// Where the ring starts, as though it had been in use: near the end of the indices, for one.
  std::uint16_t start;
  /// The device's side marks the pages that it writes.
  bool logs = false;
};
/// Any of the shapes there are: all layouts and features, sizes up to `max_entries`, starts of which many wrap soon.
RingShape any_shape(std::uint32_t max_entries);

/// Every step takes its choices from RapidCheck and compares what the engines do with what the model says.
///
/// A chain is `added` (not visible yet), then `visible` (may be taken), `held` (taken by the device), `used` (not
/// visible yet), `returned` (to be reaped, in this order).
class RingRig {
 public:
  enum class How : std::uint8_t { some, all };

  explicit RingRig(const RingShape& shape);

  /// The driver adds a chain of some readable and some writable buffers.
  void add();
  /// The driver makes visible what it added; it must kick when the device asked for it, and only then.
  void publish();
  /// The device takes some chains, compares them and keeps them; some it may put back.
  void take(How how = How::some);
  /// The device uses some of what it holds: the oldest with IN_ORDER, else any.
  void use(How how = How::some);
  /// The device uses what it holds as transmit queues do: all at once, as long as nothing is to be written.
  void use_unwritten();
  /// The device makes visible what it used; it must call when the driver asked for it, and only then.
  void publish_used();
  /// The device side stops, and another engine goes on where it was: with what it held still in flight.
  void move_device();
  /// With nothing in flight, another driver goes on with the ring.
  void move_driver();
  void replace_map();
  /// The driver takes back some chains, or all.
  void reap(How how = How::some);
  void arm_device();
  void disarm_device();
  void arm_driver();
  void disarm_driver();

  /// Every chain comes back, and the ring is empty then.
  void finish();

 private:
  struct Sent {
    std::uint64_t token;
    std::vector<std::byte> bytes;  // of the readable part
    std::uint64_t writable;
    std::uint64_t width;  // how far it moves the ring's positions
  };
  struct Held {
    virtio::Chain chain;
    std::vector<memory::GuestSpan> writable;
    Sent sent;
  };
  struct Used {
    std::uint64_t token;
    std::uint32_t written;
    std::uint64_t width;
  };
  struct Owned {
    std::vector<memory::Iova> places;
    std::vector<virtio::DriverBuffer> writable;
  };

  virtio::DriverQueue make_driver(const virtio::QueueState& start);
  void write_past();
  std::vector<virtio::DriverBuffer> any_buffers(std::size_t readable, std::size_t writable, Sent& sent);
  void check(const virtio::Chain& chain, const Sent& sent) const;
  void check_written(const Used& used);
  void note_use(const Sent& sent, std::uint32_t written);
  std::vector<virtio::DriverBuffer> ring_areas() const;
  std::vector<std::byte> read_ring() const;
  bool is_marked(memory::Iova at) const;
  void note_marks();
  void check_marks(const Used& used) const;
  template <class Work>
  auto with_marks(Work work);

  GuestMemory memory_{4 << 20};
  OwnedFd log_file_;
  std::shared_ptr<const Mapping> log_;  // where one is kept
  std::set<std::uint64_t> marked_;      // pages, since the last publish
  virtio::RingConfig config_;
  bool in_order_;
  std::optional<memory::Iova> tables_;
  virtio::DriverQueue driver_;
  virtio::DeviceQueue device_;
  virtio::ChainBatch batch_;
  std::vector<memory::Iova> places_;  // for buffers, not in use
  std::map<std::uint64_t, Owned> owned_;
  std::deque<Sent> added_;
  std::deque<Sent> visible_;
  std::size_t again_ = 0;  // so many of them, the first, are known to the device from the engine before it
  std::deque<Held> held_;
  std::deque<Used> used_;
  std::deque<Used> returned_;
  NotificationModel kicks_;
  NotificationModel calls_;
  // Positions, as NotificationModel counts them.
  std::uint64_t published_ = 0;
  std::uint64_t passed_ = 0;  // by the device
  std::uint64_t used_published_ = 0;
  std::uint64_t reaped_ = 0;
  std::uint64_t next_token_ = 0;
};

}  // namespace causeway::testing

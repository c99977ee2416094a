// What of a queue's chains has been taken and not used, in memory that outlives this process.
// Spec: QEMU docs/interop/vhost-user.rst, "Inflight I/O tracking"; the layouts are its own.
#pragma once

#include "base/mapping.h"
#include "memory/guest_span.h"
#include "virtio/packed_ring.h"
#include "virtio/ring.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

namespace causeway::virtio {

/// The record of one queue. Whoever shares the memory may write any byte at any time. Value type.
struct InflightArea {
  std::shared_ptr<const Mapping> memory;  ///< keeps the bytes alive
  memory::GuestSpan bytes;                ///< as vhost-user.rst has it
  memory::GuestSpan log;                  ///< ours, of a packed ring: what a publish is about to write; may be empty

  /// Makes it fresh: nothing was ever recorded.
  void clear() const;
  /// Size of an area, a multiple of 64.
  static constexpr std::size_t size(Layout layout, std::uint16_t entries) {
    const std::size_t bytes =
        layout == Layout::packed ? 32 + std::size_t{32} * entries : 16 + std::size_t{16} * entries;
    return (bytes + 63) / 64 * 64;
  }
  /// Size of the log that goes with it, a multiple of 64.
  static constexpr std::size_t log_size(Layout layout, std::uint16_t entries) {
    return layout == Layout::packed ? (8 + std::size_t{8} * entries + 63) / 64 * 64 : 0;
  }
};

/// The areas of all queues of a device, one behind the other, all of the same ring size; behind them all, where there
/// is room, the logs: vhost-user's record alone cannot tell how far a crash in the middle of a batch has come, since a
/// packed ring's descriptors are overwritten by used ones. Value type; file and mapping are shared.
class InflightRegion {
 public:
  /// Fresh: nothing was ever recorded.
  static Result<InflightRegion> make(Layout layout, std::uint16_t queues, QueueSize entries);
  /// Size of a region without logs, which is the least there can be, and with them.
  static constexpr std::uint64_t least_size(Layout layout, std::uint16_t queues, QueueSize entries) {
    return queues * std::uint64_t{InflightArea::size(layout, entries.entries())};
  }
  static constexpr std::uint64_t full_size(Layout layout, std::uint16_t queues, QueueSize entries) {
    return least_size(layout, queues, entries) +
           queues * std::uint64_t{InflightArea::log_size(layout, entries.entries())};
  }
  /// Memory that another process has kept. Errc::peer_violation: it is too small, or not inside the file.
  static Result<InflightRegion> adopt(Layout layout, std::uint16_t queues, QueueSize entries, OwnedFd file,
                                      std::uint64_t offset, std::uint64_t size);

  /// Nothing when the region has no such queue, or is of another layout or ring size.
  std::optional<InflightArea> area(QueueIndex queue, Layout layout, QueueSize entries) const;
  const std::shared_ptr<const OwnedFd>& file() const { return file_; }
  std::uint64_t offset() const { return offset_; }
  std::uint64_t size() const { return memory_->size(); }
  std::uint16_t queues() const { return queues_; }
  Layout layout() const { return layout_; }
  QueueSize entries() const { return entries_; }

 private:
  InflightRegion(Layout layout, std::uint16_t queues, QueueSize entries, OwnedFd file, std::uint64_t offset,
                 std::shared_ptr<const Mapping> memory);

  Layout layout_;
  std::uint16_t queues_;
  QueueSize entries_;
  std::shared_ptr<const OwnedFd> file_;
  std::uint64_t offset_;
  std::shared_ptr<const Mapping> memory_;
};

/// What a crash has left, from the record and the ring: where to resume, and the chains that must be run again, oldest
/// first. Brings the record to that state, so that it can be asked again. Nothing when nothing was ever recorded.
/// Errc::peer_violation: the record contradicts itself or the ring; the text says how.
Result<std::optional<QueueState>> recover(const InflightArea& area, const RingConfig& ring,
                                          const memory::MemoryMap& map);

/// Makes the record say what `ring.start` says, where it does not yet: a device side that starts with the record goes
/// on from there. Nobody else may be writing it. Errc::peer_violation: the start makes no sense.
Result<void> record_start(const InflightArea& area, const RingConfig& ring, const memory::MemoryMap& map);

/// False when nothing was ever used in a packed ring: it is as its driver has made it. Of a split ring the used index
/// tells, which `recover` holds the record against.
bool has_been_used(const RingConfig& ring, const memory::MemoryMap& map);

/// Keeps the record of a split ring while its queue runs. A SIGKILL between any two stores leaves a record that
/// `recover` understands. Thread: its queue's.
class SplitInflight {
 public:
  /// Goes on with a record that agrees with `ring.start`, or begins a new one.
  SplitInflight(InflightArea area, const RingConfig& ring, std::uint16_t used);

  /// A chain has been taken, and nothing done with it yet.
  void mark(std::uint16_t head);
  /// It has been put back.
  void unmark(std::uint16_t head);
  /// It will be used with the next publish.
  void use(std::uint16_t head) { used_.push_back(head); }
  /// Around the store of the ring's used index, which becomes `used`.
  void before_publish();
  void after_publish(std::uint16_t used);

 private:
  bool go_on(const RingConfig& ring, std::uint16_t used);
  void begin(const RingConfig& ring, std::uint16_t used);
  void store_head(std::uint16_t used);

  InflightArea area_;
  std::uint16_t entries_;
  std::uint16_t last_batch_head_ = 0;
  std::uint16_t used_idx_ = 0;
  std::uint64_t counter_ = 0;
  std::vector<std::uint16_t> used_;
};

/// The same of a packed ring. Without marks it keeps the used position alone, which cannot be read back from the ring.
class PackedInflight {
 public:
  PackedInflight(InflightArea area, const RingConfig& ring);

  /// `descriptors`: what lies in the ring; the last one's id is the chain's.
  void mark(const InFlight& chain);
  void unmark(std::uint16_t id);
  void use(std::uint16_t id) { used_.push_back(id); }
  /// Around the stores that make the used descriptors of a batch visible; the used position becomes `used`.
  void before_publish(PackedPosition used, std::span<const PackedUsed> batch);
  void after_publish();

 private:
  bool go_on(const RingConfig& ring);
  void begin(const RingConfig& ring);
  void write_entry(std::uint16_t entry, const PackedDescriptor& descriptor);
  void give_back(std::uint16_t head);
  void store_heads(std::uint16_t old_free_head);
  void store_positions(PackedPosition old_used);
  void store_log(std::span<const PackedUsed> batch);

  InflightArea area_;
  std::uint16_t entries_;
  std::uint16_t free_head_ = 0;
  PackedPosition used_position_;
  PackedPosition published_;
  std::uint64_t counter_ = 0;
  std::vector<std::uint16_t> next_;        // by entry; our own copy: what lies in the record may be anything
  std::vector<std::uint16_t> last_;        // by a chain's first entry
  std::vector<std::uint16_t> used_;        // ids to be used with the next publish
  std::vector<std::uint16_t> given_back_;  // the first entries of those used with the one at hand
  std::unordered_map<std::uint16_t, std::uint16_t> entry_of_;  // of a chain in flight, by its id
};

}  // namespace causeway::virtio

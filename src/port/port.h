// The Port: what one guest device is plugged into. It owns the guest's memory, the negotiated state, and for every
// queue a binding to a Device. It knows neither the protocol that drives it nor what its Devices do.
#pragma once

#include "base/event_fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/parcel.h"
#include "base/result.h"
#include "base/worker.h"
#include "memory/iotlb.h"
#include "memory/memory_map.h"
#include "port/control_queue.h"
#include "port/driver_side.h"
#include "port/record.h"
#include "port/relay.h"
#include "port/report.h"
#include "port/state_directory.h"
#include "vdpa/device.h"
#include "virtio/inflight.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace causeway::port {

using vdpa::QueueIndex;
using vdpa::QueueState;
using vdpa::Status;
using virtio::FeatureSet;

/// What becomes of the queues of a Device that could not be used for a while.
enum class Failback : std::uint8_t {
  automatic,  ///< they go back to it
  manual,     ///< they stay where they are until the operator rebinds them
};

struct DeviceState;

struct PortConfig {
  std::string name;
  FeatureSet features_off;  ///< never offered
  /// Where it keeps what must survive this process; nullptr: nowhere, and after a crash nothing is known.
  std::shared_ptr<const StateDirectory> state = nullptr;
  Failback failback = Failback::automatic;
  /// Works relayed queues; must outlive the port. nullptr: none can be relayed.
  Worker* relay_worker = nullptr;
  /// The Devices on which the queues begin: by name, one for each unit of queues (vdpa::DeviceInfo::queues_per_unit).
  /// Those of units beyond its end begin on the first Device that has them.
  std::vector<std::string> bindings = {};  // NOLINT(readability-redundant-member-init): may be left out
};

/// How a queue that is rebound shall be worked. Value type.
struct RebindWish {
  /// The Device's queue, which must be of the same direction and nobody else's, and of the last Device that of the same
  /// number; unset: that of the same number.
  std::optional<QueueIndex> device_queue = std::nullopt;
  /// Unset: the direct path where the Device can go on with the ring, else by relay.
  std::optional<Path> path = std::nullopt;
};

/// A queue is bound to the Device that the operator chose last, else to the one that the configuration names, else to
/// the first one that has that many queues; while
/// that one cannot be used (it is gone, or refuses what was negotiated, written, or the guest's memory), to the first
/// other one that can. Only the last Device's refusals are the driver side's concern. A Device works the guest's ring
/// itself; one that lacks a feature of the ring's, or cannot go on with a ring in use, works one of ours
/// (port/relay.h).
///
/// Invariants: (1) a started queue runs on exactly one Device; (2) every usable Device has every memory region mapped;
/// (3) started and enabled are independent of each other; (4) after `detach` no Device touches the memory of the driver
/// that has gone, and of its state there is left only a record, for the case that it comes back; (5) with a state
/// directory, the record there is never older than what a queue runs with; (6) a doorbell is on offer only while its
/// queue runs on its Device.
/// Thread: control.
class Port {
 public:
  /// `devices`: in order of preference, the software Device that can always take over last; at least one, all of one
  /// type. They are the port's; the loop must outlive it. Errc::invalid_value: they are not so, or a name in `bindings`
  /// is none of theirs.
  static Result<std::unique_ptr<Port>> make(Loop& loop, PortConfig config,
                                            std::vector<std::unique_ptr<vdpa::Device>> devices);
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;
  ~Port();

  const std::string& name() const { return config_.name; }
  /// What the port is to a driver: the properties of its last Device.
  const vdpa::DeviceInfo& info() const;
  /// Data queues plus the control queue, when one is offered.
  std::uint16_t queue_count() const { return static_cast<std::uint16_t>(queues_.size()); }
  FeatureSet offered_features() const;
  FeatureSet features() const { return features_; }

  /// What another process knew when it died; before the first driver side comes. A driver side that has the same rings
  /// goes on where it was, with the control commands and the configuration that were in force; any other starts
  /// afresh. Queues are bound as they were, where the Device is still there. Errc::not_supported: the port offers less
  /// than that driver uses; the text names all of it.
  Result<void> restore(PortRecord record);
  /// The same of this process, now.
  PortRecord record() const;

  /// A driver side has come. Errc::busy when there is one already. It must stay until `detach`.
  Result<void> attach(DriverSide& side);
  /// The driver side has gone, in whatever state: stops all queues, unmaps its memory, resets.
  void detach();

  /// Errc::not_supported: not a subset of what is offered. Errc::peer_violation: changed while queues run.
  Result<void> set_features(FeatureSet features);
  Status status() const { return status_; }
  /// Writing Status::reset stops all queues and keeps the memory.
  Result<void> set_status(Status status);
  /// Stops and forgets all queues, and the negotiated features; the memory stays, and in-flight memory with what is
  /// still in flight.
  void reset();

  Result<void> read_config(std::uint32_t offset, std::span<std::byte> to) const;
  Result<void> write_config(std::uint32_t offset, std::span<const std::byte> from);

  /// Replaces all regions; running queues whose rings are still there go on.
  Result<void> set_memory(std::vector<memory::Region> regions);
  Result<void> add_memory(memory::Region region);
  Result<void> remove_memory(memory::Iova iova, memory::FrontendVa frontend_va, std::uint64_t size);
  const memory::MemoryMap& memory() const { return *memory_; }

  /// The driver's addresses, those of rings included, lie before an IOMMU: queues wait whose addresses are not known.
  bool is_translated() const;
  /// What the driver side says of some of them, asked or not. While no queue runs all is forgotten (`start_queue`,
  /// `stop_queue`), since nobody hears of changes then. Errc::peer_violation: nothing is translated, or it leads
  /// to no memory of the guest's.
  Result<void> update_translation(const memory::Translation& translation);
  /// It is no longer so. After return nothing of the guest's is accessed by what was known of the range, and no Device
  /// has buffers there: queues that it concerns stop, and wait until it is known again.
  Result<void> invalidate_translations(const memory::IovaRange& range);

  /// Whether writes to guest memory can be logged: by all Devices themselves, or by relays.
  bool can_log() const;
  /// From now on every page is marked that a Device may have written, or the Port itself; nullptr: no longer. Queues
  /// of Devices that keep no log of their own are relayed meanwhile. Errc::peer_violation: the log is too small for the
  /// memory; Errc::not_supported: see `can_log`. What was logged before goes on then.
  Result<void> set_log(std::shared_ptr<const memory::DirtyLog> log);
  bool is_logging() const { return log_ != nullptr; }
  /// The driver is being moved, from here or to here: until that is over, no other process can take the port over.
  bool is_migrating() const { return is_logging() || (side_ != nullptr && side_->is_moving()); }

  /// Memory in which the Devices record what is in flight, kept by the driver side: what it says of a queue when that
  /// starts is right, whatever base was set. Errc::peer_violation: a queue runs.
  Result<void> use_inflight(virtio::InflightRegion region);
  bool has_inflight() const { return inflight_.has_value(); }
  /// The driver side gives none from now on; queues that run keep theirs, and nothing in it is changed.
  void forget_inflight() { inflight_.reset(); }

  // Set-up of one queue. A queue that does not exist is Errc::peer_violation; so is a change of size or base while it
  // runs.
  Result<void> set_queue_size(QueueIndex queue, std::uint32_t entries);
  Result<void> set_queue_addresses(QueueIndex queue, RingAddresses addresses);
  /// Where the queue resumes; until then at the start of a ring that nobody has used.
  Result<void> set_queue_base(QueueIndex queue, QueueState position);
  /// Starts the queue, or goes on with another descriptor; no descriptor: the Device polls.
  Result<void> start_queue(QueueIndex queue, std::optional<KickFd> kick);
  Result<void> set_queue_call(QueueIndex queue, std::optional<CallFd> call);
  Result<void> set_queue_err(QueueIndex queue, std::optional<ErrFd> err);
  Result<void> enable_queue(QueueIndex queue, bool enabled);
  /// Stops the queue (if it runs) and returns where its next user must resume. Drained, it has stopped for good;
  /// otherwise it is being moved, and what is on its way to the driver waits for it.
  Result<QueueState> stop_queue(QueueIndex queue, vdpa::StopMode mode = vdpa::StopMode::drain);
  /// True while no queue runs: then nothing may be sent to the driver side.
  bool is_suspended() const;

  /// Most bytes of `save_device_state`: what a driver can decide takes less.
  static constexpr std::size_t kMaxDeviceState = std::size_t{1} << 20;
  /// What the driver has decided and the driver side does not know, for a port elsewhere, whatever its Devices are: see
  /// port/device_state.h. Errc::peer_violation: queues run.
  Result<std::vector<std::byte>> save_device_state() const;
  /// Takes the place of all that a driver has decided here. What is negotiated must be the same; where nothing is yet,
  /// the features are those of the state from then on. Errc::peer_violation: queues run, the state is damaged, or a
  /// Device does not accept a part of it; Errc::not_supported: a format that this release does not know, or the state
  /// of a device that this port is not. After an error all is as it was before.
  Result<void> load_device_state(std::span<const std::byte> bytes);

  // Live upgrade: another process takes the port over while its queues run. In the order of the calls:
  /// All that the port is, with its descriptors; nothing changes. They must stay open until the parcel is sent.
  void hand_over(ParcelWriter& parcel, RecordFormat format) const;
  /// In the other process, after `attach` where a driver side is there: becomes that port, with all queues paused.
  /// Errc::peer_violation, Errc::not_supported: the parcel is wrong, or this port is too small for it.
  Result<void> take_over(ParcelReader& parcel);
  /// Pauses all queues and says where each stands. Until `go_on` or `start_at` nothing may change.
  void pause(ParcelWriter& positions);
  /// In the other process: starts the queues.
  Result<void> start_at(ParcelReader& positions);
  /// Starts the paused queues again, since the other process has failed. `has_run`: it may have worked some of them, so
  /// that the records say where they stand; it must be gone.
  void go_on(bool has_run);

  /// Moves a queue to the Device called `device`, while it runs or before it does. When that Device cannot take it, the
  /// queue goes on elsewhere and the error says why.
  Result<void> rebind(QueueIndex queue, std::string_view device, RebindWish wish = {});
  /// Has the last Device work a queue for a while, with nothing changed in where it belongs; `give_back` ends that.
  /// False: that Device works it already. Errc::gone: it does not run. Errc::not_supported: its Device could not go on
  /// with it.
  Result<bool> borrow(QueueIndex queue);
  /// An error: the queue goes on elsewhere, and why.
  Result<void> give_back(QueueIndex queue);
  /// Net only, see vdpa::Device.
  Result<void> announce(std::span<const std::byte, 6> mac);
  Result<void> set_mtu(std::uint16_t mtu);
  /// Kicks a queue once, where it runs: a kick may have gone to a doorbell that belonged to nobody any more.
  void nudge(QueueIndex queue);

  /// Looks whether memory was lost (after the eventfd of survive_lost_mappings); stops the port when it was.
  void check_memory();
  PortReport report() const;
  /// Has the Devices fetch what `report` says they have counted, see vdpa::Device.
  void refresh_counters(const std::shared_ptr<void>& token) const;

 private:
  /// One per Device: tells which one an event comes from.
  class Observer;
  struct Slot {
    std::unique_ptr<vdpa::Device> device;
    std::unique_ptr<Observer> observer;
    // Why no queue can run on it. Each is empty while it does not stand in the way.
    std::string gone;      ///< it is not spoken to, until it is back
    std::string features;  ///< it refuses the negotiated ones, until others are
    std::string settings;  ///< it refuses what was written or told, until a reset
    std::string memory;    ///< it refuses the guest's, and has none mapped, until it takes it
    /// What it was given instead of the negotiated features, because it lacks some of the ring's: it needs a relay.
    std::optional<FeatureSet> without_ring = std::nullopt;
    const std::string& why_not() const;
    bool is_usable() const { return why_not().empty(); }
    bool has_memory() const { return gone.empty() && memory.empty(); }
  };
  /// Which Device works a queue, as which of its own, and how.
  struct Binding {
    std::size_t slot = 0;
    QueueIndex queue{0};                      ///< the Device's
    std::optional<Path> path = std::nullopt;  ///< unset: direct where that is possible
    bool has_same_place(const Binding& other) const { return slot == other.slot && queue == other.queue; }
    bool operator==(const Binding&) const = default;
  };
  struct Queue {
    std::optional<virtio::QueueSize> size;
    std::optional<RingAddresses> addresses;
    std::optional<QueueState> start;  ///< where it resumes; unset: a ring that nobody has used
    std::optional<KickFd> kick;
    std::optional<CallFd> call;
    std::optional<ErrFd> err;
    Binding bound;
    Binding wanted;                ///< by the operator, or at the start
    std::unique_ptr<Relay> relay;  ///< where the path is that of a relay
    bool started = false;
    bool enabled = false;
    bool failed = false;
    std::vector<memory::Miss> lacks;             ///< behind an IOMMU: what it waits for in the middle of its ring
    bool waits = false;                          ///< started, but on no Device before its ring's addresses are known
    bool has_offered_doorbell = false;           ///< to the driver side
    bool has_offered_vfio_group = false;         ///< to the driver side
    std::optional<virtio::InflightRegion> kept;  ///< our own, where the driver side keeps none
    bool resumes = false;                        ///< `kept` says where: it was written for this very ring
    bool is_as_before = false;                   ///< the former driver's ring, which a Device may know too
    std::uint32_t run_again = 0;
    bool runs() const { return started && !failed && !waits; }
  };

  Port(Loop& loop, PortConfig config, std::vector<std::unique_ptr<vdpa::Device>> devices);

  Result<Queue*> find(QueueIndex queue);
  Result<Queue*> find_stopped(QueueIndex queue, std::string_view wish);
  bool is_control(QueueIndex queue) const;
  Slot& fallback() { return slots_.back(); }
  Binding choose_binding(QueueIndex queue) const;
  void bind_as_configured();
  /// Where a queue can always go: there each has its own number.
  Binding last_binding(QueueIndex queue) const { return {.slot = slots_.size() - 1, .queue = queue}; }
  bool is_on_last(const Queue& state) const { return state.bound.slot + 1 == slots_.size(); }
  std::optional<std::size_t> find_slot(std::string_view device) const;
  bool has_queue(std::size_t slot, QueueIndex queue) const;
  bool is_free(const Binding& place, QueueIndex queue) const;
  vdpa::Device& device_of(const Queue& state) const { return *slots_[state.bound.slot].device; }
  Queue* find_bound(std::size_t slot, QueueIndex device_queue);
  QueueIndex index_of(const Queue& state) const {
    return QueueIndex{static_cast<std::uint16_t>(&state - queues_.data())};
  }
  /// Has all Devices that are there do the same.
  Result<void> tell_all(const std::function<Result<void>(vdpa::Device&)>& work);

  Result<virtio::RingConfig> ring_of(QueueIndex queue, const Queue& state) const;
  Result<bool> resume_from_record(QueueIndex queue, Queue& state, virtio::RingConfig& ring);
  void forget_record(QueueIndex queue, const Queue& state) const;

  void note_run_again(QueueIndex queue, Queue& state, const QueueState& position) const;

  Result<void> take_queue_over(QueueIndex queue, const QueueRecord& record, ParcelReader& parcel);

  // port_device_state.cpp
  Result<void> check_fit(const DeviceState& state) const;
  Result<void> become(const DeviceState& state);
  Result<void> begin_anew(FeatureSet features);

  // port_state.cpp: what survives
  QueueRecord record_of(QueueIndex queue) const;
  Result<void> check_offer(const PortRecord& record) const;
  void bind_as(const PortRecord& record);
  void meet_former(QueueIndex queue, Queue& state);
  void inherit(const PortRecord& former);
  std::optional<virtio::InflightArea> kept_area(QueueIndex queue, Queue& state, virtio::Layout layout,
                                                virtio::QueueSize size);
  bool resume_from_kept(QueueIndex queue, Queue& state, virtio::RingConfig& ring);
  bool resume_from_device(QueueIndex queue, Queue& state, const Binding& to, virtio::RingConfig& ring);
  void save();
  void save_starting(QueueIndex queue);
  void write_record(const PortRecord& record);
  void correct_position(QueueIndex queue, virtio::RingConfig& ring);
  Result<void> run(QueueIndex queue, Queue& state);
  Result<void> run_on(QueueIndex queue, Queue& state, Binding to);
  Result<void> run_anywhere(QueueIndex queue, Queue& state, Binding first_choice, Binding last_resort);
  // port_relay.cpp: by which path
  Path path_of(const Queue& state) const;
  bool needs_relay(const Binding& to) const;
  Result<void> start_on(QueueIndex queue, Queue& state, const Binding& to, const vdpa::QueueSetup& setup);
  Result<std::unique_ptr<Relay>> start_relay(QueueIndex queue, const Binding& to, const vdpa::QueueSetup& setup);
  Result<memory::Iova> shadow_place(const Binding& to) const;
  Result<QueueState> stop_relay(Queue& state, vdpa::StopMode mode);
  void replace_relay_maps();
  // port_translation.cpp: behind an IOMMU
  const std::shared_ptr<const memory::MemoryMap>& ring_map() const { return is_translated() ? translated_ : memory_; }
  RelayMaps relay_maps() const { return {.driver = ring_map(), .device = memory_}; }
  Result<bool> awaits_ring(QueueIndex queue, const Queue& state);
  const std::shared_ptr<const memory::MemoryMap>& known_translations();
  bool is_renewal_due(const memory::IovaRange& range);
  void await_translations(Queue& state, std::span<const memory::Miss> misses);
  void ask(std::span<const memory::Miss> misses);
  void watch_answers();
  std::unique_ptr<Relay> take_relay(Queue& state);
  void forget_asked(const memory::IovaRange& range);
  Result<void> renew_translations(const memory::IovaRange* gone);
  std::vector<std::uint16_t> replace_relay_translations(const RelayMaps& next, const memory::IovaRange* gone);
  bool is_translated_by_device(const Queue& state) const;
  void tell_translations(const memory::IovaRange* gone);
  void on_translations_missed(std::size_t slot, QueueIndex device_queue, std::span<const memory::Miss> misses);
  std::uint64_t translated_buffers() const;
  void start_waiting();
  void forget_translations();
  Result<virtio::RingConfig> place_of(QueueIndex queue, const Queue& state) const;
  Result<void> tell_features(Slot& slot, FeatureSet features) const;
  Result<QueueState> halt(QueueIndex queue, Queue& state, vdpa::StopMode mode);
  QueueState start_of(const Queue& state) const;
  Result<QueueState> recover_state(QueueIndex queue, const Queue& state) const;
  Result<QueueState> state_left(QueueIndex queue, Queue& state);
  Result<QueueState> end_queue(QueueIndex queue, vdpa::StopMode mode);
  void stop_all();
  void forget_driver();
  void reset_devices();
  Result<void> tell_all_features(FeatureSet features);
  void notify_both(const Queue& state) const;
  // port_doorbell.cpp
  void offer_bypass(QueueIndex queue, Queue& state);
  void withdraw_bypass(QueueIndex queue, Queue& state);
  void offer_doorbell(QueueIndex queue, Queue& state);
  void withdraw_doorbell(QueueIndex queue, Queue& state);
  void offer_vfio_group(QueueIndex queue, Queue& state);
  void withdraw_vfio_group(QueueIndex queue, Queue& state);
  std::vector<std::uint16_t> pause_all();
  bool pause(QueueIndex queue);
  void resume(std::span<const std::uint16_t> queues);

  Result<void> change_memory(std::vector<memory::Region> regions);
  Result<void> map_everywhere(std::span<const memory::Region> regions, std::span<const memory::Region> mapped);
  void unmap_everywhere(std::span<const memory::Region> regions);
  std::vector<std::size_t> without_memory() const;
  void offer_memory_again(std::span<const std::size_t> slots);

  bool is_bound(std::size_t slot) const;
  void replay_control(std::size_t slot);
  std::vector<vdpa::Counter> totals(QueueIndex queue) const;
  vdpa::ControlReply control(std::span<const std::byte> command);
  void on_queue_failed(std::size_t slot, QueueIndex device_queue, const Error& reason);
  Result<void> check_place(QueueIndex queue, const Binding& to) const;
  Result<void> move(QueueIndex queue, Queue& state, Binding to);
  // port_device.cpp: Devices that cannot be used, and can again
  void make_unusable(std::size_t slot, std::string Slot::* reason, const Error& error);
  void move_off(std::size_t slot, bool is_there);
  void bring_up(Slot& slot) const;
  Result<void> repeat_settings(vdpa::Device& device) const;
  void fail_back(std::size_t slot);
  void on_device_gone(std::size_t slot, const Error& reason);
  void on_device_back(std::size_t slot);
  void on_config_changed();
  void on_notify_area_changed(std::size_t slot, QueueIndex device_queue);
  void on_vfio_group_changed(std::size_t slot, QueueIndex device_queue);
  void fail_queue(QueueIndex queue, const Error& reason);

  Loop& loop_;
  PortConfig config_;
  std::vector<Slot> slots_;
  std::vector<Queue> queues_;
  std::optional<virtio::InflightRegion> inflight_;
  std::unique_ptr<ControlQueue> control_queue_;
  std::map<std::uint64_t, std::vector<std::byte>> control_log_;  // by topic: what another Device must be told
  std::map<std::uint32_t, std::byte> config_written_;            // by the driver, by offset
  std::optional<std::uint16_t> mtu_;
  std::optional<PortRecord> former_;  // the driver before, until the one that is there is reset
  bool has_met_former_ = false;
  std::vector<std::string> differences_;
  std::vector<std::byte> saved_;       // what the state directory has
  bool is_taking_over_ = false;        // the state directory is still the other process's
  std::vector<std::uint16_t> paused_;  // queues, for another process or by one
  std::shared_ptr<const memory::MemoryMap> memory_;
  memory::Iotlb iotlb_;
  std::shared_ptr<const memory::MemoryMap> known_;       // the same as a map; nullptr: not made since it changed
  std::shared_ptr<const memory::MemoryMap> translated_;  // what queues have of it
  /// Asked and not answered; with the number of the question.
  std::map<std::pair<memory::Iova, memory::Access>, std::uint64_t> asked_;
  TranslationCounts translation_counts_;
  std::optional<Loop::Registration> ask_timer_;  // while something is asked
  std::shared_ptr<const memory::DirtyLog> log_;
  DriverSide* side_ = nullptr;
  FeatureSet features_;
  Status status_ = Status::reset;
  std::uint64_t rebinds_ = 0;
  log::RateLimit log_limit_;
};

/// What the state directory has of the port called `port`; nothing when it has nothing. Errors: those of `decode`, with
/// the file's path.
Result<std::optional<PortRecord>> load_record(const StateDirectory& state, const std::string& port);
/// The port will start empty.
void discard_record(const StateDirectory& state, const std::string& port);

}  // namespace causeway::port

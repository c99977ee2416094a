// The state machine of one connection: what has been negotiated, what a message may do now, and what it asks of the
// Port. It knows no socket; a Connection feeds it messages. Spec: QEMU docs/interop/vhost-user.rst, "Communication",
// "Ring states", "Front-end message types".
#pragma once

#include "base/loop.h"
#include "base/parcel.h"
#include "port/port.h"
#include "vhost_user/backend_channel.h"
#include "vhost_user/codec.h"
#include "vhost_user/doorbells.h"
#include "vhost_user/group_offers.h"
#include "vhost_user/inband_queue.h"
#include "vhost_user/port_log.h"
#include "vhost_user/postcopy.h"
#include "vhost_user/state_transfer.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace causeway::vhost_user {

struct SessionOptions {
  /// Offers INBAND_NOTIFICATIONS. Never towards QEMU, which accepts the bit without implementing it.
  bool inband_notifications = false;
  /// Offers VFIO_GROUP: the front-end may have the VFIO groups of the port's Devices, and with them the functions.
  bool vfio_groups = false;
  /// Offers PAGEFAULT, and no memory slots: the guest may come by post-copy. Only where all Devices reach its memory by
  /// mappings of this process.
  bool postcopy = false;
  ProtocolFeatures configured() const;
};

/// What a front-end has said of a ring once and need not say again after a reset: the Port forgets it, we do not. QEMU,
/// for one, gives the error descriptor only when it starts.
struct RingMemo {
  bool has_call = false;  ///< SET_VRING_CALL has come: no in-band message takes its place
  bool has_err = false;
  bool enabled = false;
  std::optional<CallFd> call;
  std::optional<ErrFd> err;
};

/// Invariants: (1) it is attached to the port from `open` until it is destroyed, which leaves nothing of it in the
/// port; (2) each refused message makes one log line that names port and message; (3) a refused message changes nothing
/// that the front-end would have to undo; (4) while no ring runs, nothing is sent on the back-end channel. Thread:
/// control.
class Session final : private port::DriverSide {
 public:
  /// What to do after a message: send `reply` when it is not empty, then go on or close.
  struct Verdict {
    Bytes reply;
    std::shared_ptr<const OwnedFd> file;  ///< goes with the reply, where there is one
    bool go_on = true;
  };

  /// Attaches to the port; Errc::busy when it has a driver side already. `on_memory_lost` must not destroy the session.
  static Result<std::unique_ptr<Session>> open(Loop& loop, port::Port& port, PortLog& log, SessionOptions options,
                                               std::function<void()> on_memory_lost);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() override;

  /// Goes on with the session of another process, which `hand_over` has written; the port is that process's port from
  /// then on, with its queues paused.
  static Result<std::unique_ptr<Session>> take_over(Loop& loop, port::Port& port, PortLog& log, SessionOptions options,
                                                    std::function<void()> on_memory_lost, ParcelReader& parcel);
  void hand_over(ParcelWriter& parcel) const;
  /// Between the two nothing is sent to the front-end, or heard from it.
  void freeze();
  void thaw();

  /// Handles one message. `fds` holds what came with it; an error says why they could not be received.
  Verdict handle(const Header& header, std::span<const std::byte> body, Result<std::vector<OwnedFd>> fds);

  ProtocolFeatures protocol_features() const { return protocol_; }

  /// A descriptor of the connection's socket, of which is asked only whether the front-end is still there.
  void set_line(OwnedFd line) { line_ = std::move(line); }

 private:
  Session(Loop& loop, port::Port& port, PortLog& log, SessionOptions options, std::function<void()> on_memory_lost);

  // port::DriverSide
  void config_changed() override;
  void memory_lost() override;
  void offer_notify_area(QueueIndex queue, const vdpa::NotifyArea& area) override { doorbells_.offer(queue, area); }
  void withdraw_notify_area(QueueIndex queue) override { doorbells_.withdraw(queue); }
  port::Doorbell doorbell(QueueIndex queue) const override { return doorbells_.state(queue); }
  void offer_vfio_group(QueueIndex queue, const OwnedFd& group) override { groups_.offer(queue, group); }
  void withdraw_vfio_group(QueueIndex queue) override { groups_.withdraw(queue); }
  bool translates() const override { return protocol_.has(ProtocolFeature::backend_req); }
  void translation_missed(const memory::Miss& miss) override;
  bool is_moving() const override { return postcopy_ != nullptr || transfer_ != nullptr; }

  Result<Answer> answer(const Header& header, std::span<const std::byte> body, Result<std::vector<OwnedFd>> fds);
  Result<void> check_negotiated(const MessageSpec& spec) const;
  Verdict accept(const Header& header, const Answer& answer) const;
  Verdict refuse(const Header& header) const;
  bool wants_ack(const Header& header) const;

  // session.cpp: what is negotiated
  Result<Answer> on(const GetFeatures&);
  Result<Answer> on(const SetFeatures&);
  Result<Answer> on(const GetProtocolFeatures&);
  Result<Answer> on(const SetProtocolFeatures&);
  ProtocolFeatures offered_protocol() const;
  Result<Answer> on(const GetQueueNum&);
  Result<Answer> on(const SetOwner&);
  Result<Answer> on(const ResetOwner&);
  // session_memory.cpp
  Result<Answer> on(SetMemTable);
  Result<Answer> on(const SetLogBase&);
  Result<Answer> on(SetLogFd);
  Result<void> update_log();
  Result<Answer> on(AddMemReg);
  Result<Answer> on(const RemMemReg&);
  Result<Answer> on(const GetMaxMemSlots&);
  Result<Answer> on(const IotlbMsg&);
  // session_ring.cpp
  Result<Answer> on(const SetVringNum&);
  Result<Answer> on(const SetVringAddr&);
  Result<Answer> on(const SetVringBase&);
  Result<Answer> on(const GetVringBase&);
  Result<Answer> on(SetVringKick);
  Result<Answer> on(SetVringCall);
  Result<Answer> on(SetVringErr);
  Result<Answer> on(const SetVringEnable&);
  Result<Answer> on(const VringKick&);
  // session_inflight.cpp
  Result<Answer> on(const GetInflightFd&);
  Result<Answer> on(SetInflightFd);
  Result<Answer> on(const GetVringBaseSkipDrain&);
  // session_postcopy.cpp
  Result<Answer> on(const PostcopyAdvise&);
  Result<Answer> on(const PostcopyListen&);
  Result<Answer> on(const PostcopyEnd&);
  Result<Answer> propose_table(std::vector<memory::Region> regions);
  Result<Answer> accept_table();
  bool is_within_table_exchange(const Header& header) const;
  // session_device_state.cpp
  Result<Answer> on(SetDeviceStateFd);
  Result<Answer> on(const CheckDeviceState&);
  Result<Bytes> device_state() const;
  Result<void> take_device_state(std::span<const std::byte> state);
  void remember_device_state();
  // session_device.cpp
  Result<Answer> on(const GetConfig&);
  Result<Answer> on(const SetConfig&);
  Result<Answer> on(const SetStatus&);
  Result<Answer> on(const GetStatus&);
  Result<Answer> on(const ResetDevice&);
  Result<Answer> on(const NetSetMtu&);
  Result<Answer> on(const SendRarp&);
  Result<Answer> on(SetBackendReqFd);

  Result<void> start_ring(QueueIndex queue, std::optional<KickFd> kick);
  Result<Answer> end_ring(QueueIndex queue, vdpa::StopMode mode);
  vdpa::StopMode stop_mode() const;
  Result<void> enable_all_rings(bool enabled);
  port::RingAddressKind address_kind(const SetVringAddr& message);
  bool is_inband() const { return protocol_.has(ProtocolFeature::inband_notifications); }
  /// Puts back what a reset of the device does not take from the front-end.
  Result<void> restore_rings();
  void send_due_config_change();
  /// What the front-end has let go of by itself.
  void forget_offers(QueueIndex queue);
  void forget_all_offers();
  /// Over which such messages can be sent; nullptr: they cannot.
  BackendChannel* channel_for(BackendRequest request) const;
  BackendChannel* doorbell_channel() const;
  BackendChannel::OnDoorbell on_doorbell();
  // session_handover.cpp
  Result<void> read_state(ParcelReader& parcel);

  Loop& loop_;
  port::Port& port_;
  PortLog& log_;
  SessionOptions options_;
  std::function<void()> on_memory_lost_;
  ProtocolFeatures protocol_;
  virtio::Layout layout_ = virtio::Layout::split;      // negotiated last; a reset does not end it
  std::shared_ptr<const memory::DirtyLog> dirty_log_;  // as the front-end gave it, whether it is in use or not
  std::shared_ptr<const EventFd> dirty_log_event_;
  std::optional<OwnedFd> line_;
  std::unique_ptr<Postcopy> postcopy_;       // while it is under way
  std::unique_ptr<StateTransfer> transfer_;  // until the front-end has asked how it went
  std::optional<Bytes> stopped_state_;       // of the device before its last SET_STATUS 0
  bool logs_all_ = false;                    // VHOST_F_LOG_ALL is set
  bool is_attached_ = false;
  bool rings_start_enabled_ = false;  // SET_FEATURES came without bit 30
  bool is_broken_ = false;            // a rule was broken after which the connection must end
  bool config_change_due_ = false;    // came while suspended
  Doorbells doorbells_;
  GroupOffers groups_;
  std::unique_ptr<BackendChannel> channel_;
  std::map<QueueIndex, InbandQueue> inband_;  // running queues; destroyed before the channel
  std::map<QueueIndex, RingMemo> rings_;
};

}  // namespace causeway::vhost_user

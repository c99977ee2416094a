// The doorbells of a port's queues, offered to the front-end (VRING_HOST_NOTIFIER_MSG).
// Spec: QEMU docs/interop/vhost-user.rst, "Back-end message types".
#pragma once

#include "base/loop.h"
#include "port/port.h"
#include "vhost_user/backend_channel.h"
#include "vhost_user/port_log.h"

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>

namespace causeway::vhost_user {

/// A front-end may refuse a doorbell for a while: QEMU does until its device has started. So a refused one is offered
/// again a few times, ever later; after that the queue goes on with its eventfd. Where a ring stops by the front-end's
/// own message, the front-end has let go of the doorbell by itself, and nothing is sent.
///
/// Invariants: (1) messages of one queue go in the order of the calls; (2) an offer that is withdrawn before it was
/// sent is never sent; (3) once the front-end has let go of a doorbell, or taken another, the queue is kicked, since
/// its driver may have rung the old one; (4) a doorbell that the front-end has taken after all, too late, is withdrawn.
/// Thread: control.
class Doorbells {
 public:
  static constexpr std::chrono::milliseconds kFirstRetry{10};  ///< doubled with each
  static constexpr int kMostOffers = 8;

  /// `channel` returns the one over which doorbells can be offered now; nullptr: they cannot.
  Doorbells(Loop& loop, port::Port& port, PortLog& log, std::function<BackendChannel*()> channel)
      : loop_(loop), port_(port), log_(log), channel_(std::move(channel)) {}
  Doorbells(const Doorbells&) = delete;
  Doorbells& operator=(const Doorbells&) = delete;

  void offer(QueueIndex queue, const vdpa::NotifyArea& area);
  void withdraw(QueueIndex queue);
  /// The front-end has let go of the doorbell by itself.
  void forget(QueueIndex queue);
  void forget_all();
  port::Doorbell state(QueueIndex queue) const;

  /// The answer to one of our messages.
  void on_answer(const BackendMessage& message, bool accepted);
  /// Sends what could not be sent while no ring ran.
  void send_due();
  /// There is another channel: what is on offer is offered there.
  void offer_again();
  /// Between the two nothing is offered again.
  void freeze();
  void thaw();
  /// The doorbells that the front-end may have.
  BackendChannel::Told told() const;

 private:
  struct Bell {
    std::optional<DoorbellArea> area;  // on offer
    port::Doorbell state = port::Doorbell::none;
    bool is_told = false;  // the front-end may have one
    bool is_withdrawal_due = false;
    int refusals = 0;
    std::optional<Loop::Registration> retry;
  };

  void send(QueueIndex queue, Bell& bell);
  void on_refusal(QueueIndex queue, Bell& bell);
  void take_back(QueueIndex queue, Bell& bell);

  Loop& loop_;
  port::Port& port_;
  PortLog& log_;
  std::function<BackendChannel*()> channel_;
  std::map<QueueIndex, Bell> bells_;
};

}  // namespace causeway::vhost_user

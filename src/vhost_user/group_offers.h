// The VFIO groups of a port's queues, offered to the front-end (VRING_VFIO_GROUP_MSG).
// Spec: docs/wire/vfio-group.md.
#pragma once

#include "base/owned_fd.h"
#include "vhost_user/backend_channel.h"
#include "vhost_user/port_log.h"

#include <functional>
#include <map>
#include <memory>
#include <utility>

namespace causeway::vhost_user {

/// Offered once, while the queue runs on the Device whose group it is: nothing depends on what the front-end does with
/// it. Where a ring stops by the front-end's own message, the front-end has let go of the group by itself, and nothing
/// is sent.
///
/// Invariants: (1) messages of one queue go in the order of the calls; (2) an offer that is withdrawn before it was
/// sent is never sent; (3) after `withdraw` and `forget` no descriptor of the group is open here. Thread: control.
class GroupOffers {
 public:
  /// `channel` returns the one over which groups can be offered now; nullptr: they cannot. Where it is not configured,
  /// nothing is.
  GroupOffers(bool is_configured, PortLog& log, std::function<BackendChannel*()> channel)
      : is_configured_(is_configured), log_(log), channel_(std::move(channel)) {}
  GroupOffers(const GroupOffers&) = delete;
  GroupOffers& operator=(const GroupOffers&) = delete;

  /// The group is lent for the call.
  void offer(QueueIndex queue, const OwnedFd& group);
  void withdraw(QueueIndex queue);
  /// The front-end has let go of it by itself.
  void forget(QueueIndex queue);
  void forget_all();
  /// There is another channel: what is on offer is offered there.
  void offer_again();
  /// The groups that the front-end may have.
  BackendChannel::Told told() const;

 private:
  struct Offer {
    std::shared_ptr<const OwnedFd> group;
    bool is_told = false;
  };
  void send(QueueIndex queue, Offer& offer);

  bool is_configured_;
  PortLog& log_;
  std::function<BackendChannel*()> channel_;
  std::map<QueueIndex, Offer> offers_;
};

}  // namespace causeway::vhost_user

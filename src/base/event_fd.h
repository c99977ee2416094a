// Eventfds by role. A kick descriptor passed where a call descriptor is due does not compile.
#pragma once

#include "base/owned_fd.h"
#include "base/parcel.h"

#include <concepts>
#include <memory>
#include <optional>

namespace causeway {

/// An eventfd (or any descriptor that another process gave us as one). Thread: any.
class EventFd {
 public:
  static Result<EventFd> make();
  /// Takes over a received descriptor and makes it non-blocking; refuses what is no eventfd.
  static Result<EventFd> adopt(OwnedFd fd);

  /// Adds one. Never blocks: a counter that is full already wakes its reader.
  void signal() const;
  /// Takes the counter back to zero; true when it was not zero.
  bool drain() const;
  const OwnedFd& fd() const { return fd_; }
  Result<EventFd> duplicate() const;

 private:
  explicit EventFd(OwnedFd fd) : fd_(std::move(fd)) {}
  OwnedFd fd_;
};

/// An eventfd with a role. Shared, because the Port keeps what it lends to a Device.
template <class Role>
class RoleFd {
 public:
  explicit RoleFd(EventFd event) : event_(std::make_shared<const EventFd>(std::move(event))) {}
  static Result<RoleFd> make() {
    CW_TRY(auto event, EventFd::make());
    return RoleFd(std::move(event));
  }
  void signal() const { event_->signal(); }
  bool drain() const { return event_->drain(); }
  const OwnedFd& fd() const { return event_->fd(); }
  bool operator==(const RoleFd&) const = default;

 private:
  std::shared_ptr<const EventFd> event_;
};

/// An eventfd in a parcel, where there is one.
template <class Role>
void write_event(ParcelWriter& to, const std::optional<RoleFd<Role>>& event) {
  to.flag(event.has_value());
  if (event) to.descriptor(event->fd());
}
template <class Fd>
Result<std::optional<Fd>> read_event(ParcelReader& from) {
  if (!from.flag()) return std::optional<Fd>();
  CW_TRY(auto fd, from.descriptor());
  CW_TRY(auto event, EventFd::adopt(std::move(fd)));
  return std::optional<Fd>(Fd(std::move(event)));
}

using KickFd = RoleFd<struct KickRole>;  ///< driver to device: new available buffers
using CallFd = RoleFd<struct CallRole>;  ///< device to driver: new used buffers
using ErrFd = RoleFd<struct ErrRole>;    ///< device to driver: the ring broke

}  // namespace causeway

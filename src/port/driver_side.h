// What a Port tells the server that drives it.
#pragma once

#include "vdpa/device.h"

#include <cstdint>
#include <string_view>

namespace causeway::port {

/// Who has the doorbell of a queue.
enum class Doorbell : std::uint8_t {
  none,      ///< nobody: there is none, or the driver side cannot use one; kicks come by eventfd
  offered,   ///< the driver side has been told of it and has not said yet whether it uses it
  accepted,  ///< the guest kicks the Device itself
  refused,   ///< the driver side does not use it; kicks come by eventfd
};
std::string_view name_of(Doorbell doorbell);

/// Called on the control thread.
class DriverSide {
 public:
  virtual ~DriverSide() = default;
  /// The configuration space has changed; the driver should read it again.
  virtual void config_changed() = 0;
  /// Guest memory has been lost under us; the port has stopped. The server should end the connection.
  virtual void memory_lost() = 0;

  /// The queue, which runs, has a doorbell that may be mapped into the guest until it is withdrawn. The area is lent
  /// for the call.
  virtual void offer_notify_area(vdpa::QueueIndex queue, const vdpa::NotifyArea& area) = 0;
  /// The queue leaves the Device of that doorbell; kicks must come by eventfd again. Must not wait for the driver: what
  /// it rings in between is lost, so that the server calls Port::nudge once nobody can ring there any more.
  virtual void withdraw_notify_area(vdpa::QueueIndex queue) = 0;
  /// The queue, which runs, is interrupted for by a function of this VFIO group, until that is withdrawn. The
  /// descriptor is lent for the call. Only for driver sides that can hand it on to a VMM.
  virtual void offer_vfio_group(vdpa::QueueIndex /*queue*/, const OwnedFd& /*group*/) {}
  /// The queue leaves the Device of that group. Must not wait for the driver.
  virtual void withdraw_vfio_group(vdpa::QueueIndex /*queue*/) {}
  /// With ACCESS_PLATFORM negotiated, the driver's addresses lie before an IOMMU and this side says what they are
  /// (Port::update_translation) when it is asked.
  virtual bool translates() const { return false; }
  /// A queue waits for an address of the driver's. Asked once until there is an answer.
  virtual void translation_missed(const memory::Miss& /*miss*/) {}
  /// The driver is being moved, as only the driver side knows: by post-copy some of its memory is still elsewhere, or
  /// its device's state is on the way.
  virtual bool is_moving() const { return false; }
  /// What has become of the queue's doorbell.
  virtual Doorbell doorbell(vdpa::QueueIndex queue) const = 0;
};

}  // namespace causeway::port

// A place outside this process where a parcel waits for the next one: systemd's descriptor store.
// systemd: sd_pid_notify_with_fds(3), sd_listen_fds_with_names(3), FileDescriptorStoreMax= in systemd.service(5).
#pragma once

#include "base/parcel.h"
#include "base/result.h"

#include <optional>

namespace causeway::daemon {

/// Whether this process was started by a service manager that may keep descriptors.
bool has_descriptor_store();
/// Puts the parcel there. The manager drops it when the service stops for good. Errc::system: it cannot be put there.
Result<void> deposit(const ParcelWriter& parcel);
/// Takes out what a process before has deposited; nothing when there is nothing. Call once, before threads are started.
/// Errc::peer_violation: what is there is no whole parcel.
Result<std::optional<Parcel>> withdraw();

}  // namespace causeway::daemon

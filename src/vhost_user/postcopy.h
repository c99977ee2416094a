// Post-copy: the guest runs here already while pages of its memory are still on their way.
// Spec: QEMU docs/interop/vhost-user.rst, "Memory access", VHOST_USER_POSTCOPY_ADVISE, _LISTEN and _END.
#pragma once

#include "base/event_fd.h"
#include "memory/memory_map.h"
#include "memory/user_faults.h"

#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

namespace causeway::vhost_user {

/// What a front-end has said of post-copy, from POSTCOPY_ADVISE to POSTCOPY_END. A page that has not come stops whoever
/// touches it, workers and the control thread, until the front-end has fetched it. A front-end that vanishes would stop
/// them for ever, so a thread of its own looks out for that. Thread: control.
class Postcopy {
 public:
  /// `line`: the socket to the front-end; nullptr: nobody looks whether that is still there.
  static Result<std::unique_ptr<Postcopy>> start(const OwnedFd* line);
  Postcopy(const Postcopy&) = delete;
  Postcopy& operator=(const Postcopy&) = delete;
  /// All pages have come, or will never come: nobody waits for one any more.
  ~Postcopy();

  /// For the front-end. Lives as long as somebody has it.
  std::shared_ptr<const OwnedFd> fd() const { return {faults_, &faults_->fd()}; }

  /// POSTCOPY_LISTEN: from now on a memory table is answered with our addresses, and used once that is acknowledged.
  void listen() { listens_ = true; }
  bool listens() const { return listens_; }

  /// The table that is to be acknowledged.
  void set_table(std::vector<memory::Region> regions) { table_ = std::move(regions); }
  bool awaits_acknowledgement() const { return table_.has_value(); }
  /// It is: has faults in it go to the front-end, and returns it.
  Result<std::vector<memory::Region>> take_table();

 private:
  Postcopy(std::shared_ptr<memory::UserFaults> faults, EventFd stop)
      : faults_(std::move(faults)), stop_(std::move(stop)) {}
  void look_out(OwnedFd line);

  std::shared_ptr<memory::UserFaults> faults_;
  EventFd stop_;
  bool listens_ = false;
  std::optional<std::vector<memory::Region>> table_;
  std::jthread lookout_;
};

}  // namespace causeway::vhost_user

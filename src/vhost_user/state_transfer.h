// A device's state on its way over a channel that the front-end has given us: written or read as far as that goes
// without waiting, on the control loop. Spec: QEMU docs/interop/vhost-user.rst, "Migrating back-end state" and
// "VHOST_USER_SET_DEVICE_STATE_FD".
#pragma once

#include "base/loop.h"
#include "base/owned_fd.h"
#include "base/result.h"

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace causeway::vhost_user {

/// Invariants: (1) it has the channel while it is under way, and closes it with the last byte or the first error;
/// (2) it holds at most the longest state that is allowed; (3) the receiver gets a whole state, once, or none.
/// Thread: control.
class StateTransfer {
 public:
  /// Called with all that came before the end of the channel; its error is that of the transfer.
  using Take = std::move_only_function<Result<void>(std::span<const std::byte> state)>;

  /// Writes `state`, then closes. Errc::peer_violation: the channel is neither pipe nor stream socket, or cannot be
  /// written.
  static Result<std::unique_ptr<StateTransfer>> send(Loop& loop, OwnedFd channel, std::vector<std::byte> state);
  /// Reads until the other end is closed, at most `longest` bytes. Errc::peer_violation as above.
  static Result<std::unique_ptr<StateTransfer>> receive(Loop& loop, OwnedFd channel, std::size_t longest, Take take);
  StateTransfer(const StateTransfer&) = delete;
  StateTransfer& operator=(const StateTransfer&) = delete;

  bool is_under_way() const { return channel_.has_value(); }
  /// Does what can be done now; the loop has it done by itself, too.
  void go_on();
  /// Ends it, and says how it went. Errc::peer_violation: the other side has not done its part, or what came was wrong;
  /// Errc::gone: it has closed its end too early.
  Result<void> finish();

 private:
  explicit StateTransfer(OwnedFd channel) : channel_(std::move(channel)) {}
  bool write_some();
  bool read_some();
  bool stop_for(int error, const char* call);
  void end(Result<void> outcome);

  std::vector<std::byte> bytes_;  // to be written, or read so far
  std::size_t done_ = 0;          // of these, written
  std::size_t longest_ = 0;
  Take take_;  // unset: we write
  Result<void> outcome_;
  std::optional<OwnedFd> channel_;
  std::optional<Loop::Registration> watch_;  // gone before the channel
};

}  // namespace causeway::vhost_user

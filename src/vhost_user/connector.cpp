#include "vhost_user/connector.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace causeway::vhost_user {
namespace {

/// Between two looks while make() waits for the first back-end.
constexpr std::chrono::milliseconds kPause{20};

}  // namespace

Result<std::unique_ptr<Connector>> Connector::make(Loop& loop, std::filesystem::path path, Role role) {
  std::unique_ptr<Connector> connector(new Connector(loop, std::move(path)));
  if (role == Role::listen) {
    CW_TRY(auto listener, UnixListener::bind(connector->path_));
    connector->listener_.emplace(std::move(listener));
  }
  return connector;
}

Result<UnixSocket> Connector::try_once() const {
  return listener_ ? listener_->accept() : UnixSocket::connect(path_);
}

Result<UnixSocket> Connector::wait(std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    auto socket = try_once();
    if (socket) {
      found_ = std::chrono::steady_clock::now();
      return socket;
    }
    if (socket.error().code == Errc::invalid_value) return socket;
    if (std::chrono::steady_clock::now() >= deadline) {
      return fail(Errc::gone, fmt::format("no back-end in {} ms: {}", patience.count(), socket.error().text()));
    }
    std::this_thread::sleep_for(kPause);
  }
}

void Connector::seek(OnFound on_found) {
  on_found_ = std::move(on_found);
  using std::chrono::milliseconds;
  // One that leaves as soon as it has come must not keep this thread busy; one that was there for long is missed now.
  const auto since = std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - found_);
  try_after(std::max(back_off_ - since, milliseconds(0)));
}

void Connector::try_after(std::chrono::milliseconds delay) {
  watch_.reset();
  retry_.emplace(loop_.after(delay, [this] {
    if (listener_) {
      watch_.emplace(loop_.watch(listener_->fd(), [this] { on_turn(); }));
    } else {
      on_turn();
    }
  }));
  if (delay > std::chrono::milliseconds(0)) back_off_ = std::min(back_off_ * 2, kLongestBackOff);
}

void Connector::on_turn() {
  auto socket = try_once();
  // Not there, or no descriptor left to accept it with: looking again at once would spin.
  if (!socket) return try_after(back_off_);
  watch_.reset();
  found_ = std::chrono::steady_clock::now();
  std::exchange(on_found_, nullptr)(std::move(*socket));
}

}  // namespace causeway::vhost_user

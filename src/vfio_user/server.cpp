#include "vfio_user/server.h"

#include "base/log.h"

#include <chrono>
#include <utility>

namespace causeway::vfio_user {

Result<std::unique_ptr<Server>> Server::start(Loop& loop, vfio::Bus& function, ServerConfig config) {
  auto listener = UnixListener::bind(config.path);
  if (!listener) return fail(std::move(listener).error().context(config.name));
  return std::unique_ptr<Server>(new Server(loop, function, std::move(config), std::move(*listener)));
}

Server::Server(Loop& loop, vfio::Bus& function, ServerConfig config, UnixListener listener)
    : loop_(loop), function_(function), config_(std::move(config)), listener_(std::move(listener)) {
  watch_listener();
}

void Server::watch_listener() {
  watch_.emplace(loop_.watch(listener_.fd(), [this] { on_waiting(); }));
}

void Server::on_waiting() {
  constexpr std::chrono::milliseconds kBackOff{200};
  auto socket = listener_.accept();
  if (!socket) {
    if (socket.error().code == Errc::busy) return;
    log::warn("{}: {}; tries again later", config_.name, socket.error().text());
    watch_.reset();
    retry_.emplace(loop_.after(kBackOff, [this] { watch_listener(); }));
    return;
  }
  // A client that has just died may be followed by its successor before we have heard of it.
  if (connection_) connection_->look();
  if (connection_) {
    log::warn("{}: a second client on '{}' is turned away", config_.name, config_.path.native());
    return;
  }
  log::info("{}: client connected on '{}'", config_.name, config_.path.native());
  connection_ =
      std::make_unique<ServerConnection>(loop_, function_, config_.name, std::move(*socket), [this](const Error& why) {
        log::info("{}: client disconnected: {}", config_.name, why.text());
        connection_.reset();
      });
}

}  // namespace causeway::vfio_user

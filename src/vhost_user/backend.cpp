#include "vhost_user/backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::vhost_user {

Result<std::unique_ptr<Backend>> Backend::start(Loop& loop, port::Port& port, BackendConfig config) {
  std::unique_ptr<Backend> backend(new Backend(loop, port, std::move(config)));
  if (backend->config_.role == Role::connect) {
    backend->try_to_connect();
    return backend;
  }
  auto listener = UnixListener::bind(backend->config_.path);
  if (!listener) return fail(std::move(listener).error().context("port " + port.name()));
  backend->listener_.emplace(std::move(*listener));
  backend->watch_listener();
  return backend;
}

void Backend::hand_over(ParcelWriter& parcel, port::RecordFormat format) const {
  parcel.flag(listener_.has_value());
  if (listener_) parcel.descriptor(listener_->fd());
  parcel.flag(connection_ != nullptr);
  if (connection_) connection_->hand_over(parcel);
  port_.hand_over(parcel, format);
}

Result<std::unique_ptr<Backend>> Backend::take_over(Loop& loop, port::Port& port, BackendConfig config,
                                                    ParcelReader& parcel) {
  std::unique_ptr<Backend> backend(new Backend(loop, port, std::move(config)));
  Backend* const self = backend.get();
  if (parcel.flag() != (self->config_.role == Role::listen)) {
    return fail(Errc::not_supported, "the port was server of its socket and is to be client, or the other way round");
  }
  if (self->config_.role == Role::listen) {
    CW_TRY(auto fd, parcel.descriptor());
    CW_TRY(auto listener, UnixListener::adopt(std::move(fd), self->config_.path));
    self->listener_.emplace(std::move(listener));
    // Until it is known that all goes well, the path is the other process's.
    self->listener_->leave_path();
  }
  if (parcel.flag()) {
    CW_TRY(self->connection_, Connection::take_over(loop, port, self->log_, self->config_.options, parcel,
                                                    [self] { self->on_connection_ended(); }));
  }
  CW_CHECK(port.take_over(parcel));
  return backend;
}

void Backend::freeze() {
  watch_.reset();
  retry_.reset();
  if (connection_) connection_->freeze();
}

void Backend::thaw() {
  if (listener_) {
    listener_->keep_path(config_.path);
    watch_listener();
  }
  if (connection_) {
    connection_->thaw();
  } else if (config_.role == Role::connect) {
    try_to_connect();
  }
}

void Backend::leave_path() {
  if (listener_) listener_->leave_path();
}

BackendReport Backend::report() const {
  return {.path = config_.path,
          .role = config_.role,
          .connected = connection_ != nullptr,
          .protocol_features = connection_ ? connection_->protocol_features() : ProtocolFeatures()};
}

void Backend::watch_listener() {
  watch_.emplace(loop_.watch(listener_->fd(), [this] { accept_waiting(); }));
}

void Backend::accept_waiting() {
  auto socket = listener_->accept();
  if (socket) {
    serve(std::move(*socket));
    return;
  }
  if (socket.error().code == Errc::busy) return;  // whoever waited has gone again
  // Out of descriptors, most likely. The connection stays in the queue of the kernel, so that looking at once would
  // spin.
  log_.warn(fmt::format("{}; trying again in {} ms", socket.error().text(), kAcceptBackOff.count()));
  watch_.reset();
  retry_.emplace(loop_.after(kAcceptBackOff, [this] { watch_listener(); }));
}

bool Backend::serve(UnixSocket socket) {
  const auto path = config_.path.native();
  if (connection_) {
    log_.warn(fmt::format("a second front-end on '{}' turned away: the port has one", path));
    return false;
  }
  auto connection =
      Connection::open(loop_, port_, log_, config_.options, std::move(socket), [this] { on_connection_ended(); });
  if (!connection) {
    log_.warn(fmt::format("front-end on '{}' turned away: {}", path, connection.error().text()));
    return false;
  }
  connection_ = std::move(*connection);
  log_.info(fmt::format("front-end connected on '{}'", path));
  return true;
}

void Backend::on_connection_ended() {
  connection_.reset();
  if (config_.role == Role::connect) connect_later();
}

void Backend::try_to_connect() {
  auto socket = UnixSocket::connect(config_.path);
  if (socket && serve(std::move(*socket))) {
    is_absence_told_ = false;
    back_off_ = kFirstBackOff;
    return;
  }
  if (!socket && !std::exchange(is_absence_told_, true)) {
    log_.info(fmt::format("{}; trying again until a front-end listens", socket.error().text()));
  }
  connect_later();
}

void Backend::connect_later() {
  retry_.emplace(loop_.after(back_off_, [this] { try_to_connect(); }));
  back_off_ = std::min(back_off_ * 2, kLongestBackOff);
}

}  // namespace causeway::vhost_user

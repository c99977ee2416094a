#include "vhost_user/connection.h"

#include <fmt/format.h>

#include <iterator>
#include <utility>

namespace causeway::vhost_user {
namespace {

/// Reads in one go, so that a front-end that never stops sending cannot keep the loop from other ports.
constexpr int kReadsPerTurn = 64;

}  // namespace

Result<std::unique_ptr<Connection>> Connection::open(Loop& loop, port::Port& port, PortLog& log, SessionOptions options,
                                                     UnixSocket socket, OnEnd on_end) {
  std::unique_ptr<Connection> connection(new Connection(log, std::move(socket), std::move(on_end)));
  Connection* const self = connection.get();
  // The port tells of lost memory from within its own work: end after that.
  const auto end_soon = [self, &loop] {
    self->end_soon_.emplace(loop.after(std::chrono::milliseconds(0), [self] { self->end(); }));
  };
  CW_TRY(self->session_, Session::open(loop, port, log, options, end_soon));
  self->watch_.emplace(loop.watch(self->socket_.fd(), [self] { self->on_readable(); }));
  return connection;
}

void Connection::on_readable() {
  for (int i = 0; i < kReadsPerTurn; ++i) {
    switch (read_some()) {
      case Progress::more:
        continue;
      case Progress::nothing_there:
        return;
      case Progress::ended:
        return end();  // destroys this: nothing may follow
    }
  }
}

Connection::Progress Connection::read_some() {
  const auto wanted = header_ ? std::span<std::byte>(body_) : std::span<std::byte>(head_);
  auto received = socket_.receive(wanted.subspan(filled_));
  if (!received) {
    log_.warn(received.error().text());
    return Progress::ended;
  }
  if (received->closed) return on_hang_up();
  if (received->bytes == 0) return Progress::nothing_there;
  take_descriptors(*received);
  filled_ += received->bytes;
  if (filled_ < wanted.size()) return Progress::more;
  return header_ ? on_message() : on_header();
}

void Connection::take_descriptors(Received& received) {
  if (received.truncated) {
    fds_error_ = Error{.code = Errc::system, .what = "descriptors were lost: this process has no more free"};
  }
  if (!received.fds.empty() && (header_ || filled_ != 0)) {
    fds_error_ = Error{.code = Errc::peer_violation, .what = "descriptors in the middle of a message"};
  }
  fds_.insert(fds_.end(), std::move_iterator(received.fds.begin()), std::move_iterator(received.fds.end()));
}

Connection::Progress Connection::on_header() {
  auto header = decode_header(head_);
  if (!header) {
    log_.warn(header.error().text());
    return Progress::ended;
  }
  header_ = *header;
  body_.assign(header->size, std::byte{0});
  filled_ = 0;
  return body_.empty() ? on_message() : Progress::more;
}

Connection::Progress Connection::on_message() {
  const Header header = *std::exchange(header_, std::nullopt);
  filled_ = 0;
  Result<std::vector<OwnedFd>> fds(std::exchange(fds_, {}));
  if (fds_error_) fds = fail(*std::exchange(fds_error_, std::nullopt));
  const Session::Verdict verdict = session_->handle(header, body_, std::move(fds));
  if (!verdict.reply.empty()) {
    const OwnedFd* const file = verdict.file.get();
    if (auto sent = socket_.send(verdict.reply, std::span(&file, file != nullptr ? 1 : 0)); !sent) {
      log_.warn(fmt::format("reply to {}: {}", name_of_request(header.request), sent.error().text()));
      return Progress::ended;
    }
  }
  return verdict.go_on ? Progress::more : Progress::ended;
}

Connection::Progress Connection::on_hang_up() {
  if (header_) {
    log_.warn(fmt::format("front-end vanished in the middle of {}, after {} of {} bytes of payload",
                          name_of_request(header_->request), filled_, body_.size()));
  } else if (filled_ != 0) {
    log_.warn(fmt::format("front-end vanished in the middle of a header, after {} of {} bytes", filled_, kHeaderSize));
  } else {
    log_.info("front-end disconnected");
  }
  return Progress::ended;
}

void Connection::end() {
  watch_.reset();
  // The handler may destroy this object, so it must not live in it while it runs.
  OnEnd on_end = std::exchange(on_end_, nullptr);
  if (on_end) on_end();
}

}  // namespace causeway::vhost_user

#include "vhost_user/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace causeway::vhost_user {
namespace {

/// Reads in one go, so that a front-end that never stops sending cannot keep the loop from other ports.
constexpr int kReadsPerTurn = 64;

}  // namespace

Result<std::unique_ptr<Connection>> Connection::open(Loop& loop, port::Port& port, PortLog& log, SessionOptions options,
                                                     UnixSocket socket, OnEnd on_end) {
  std::unique_ptr<Connection> connection(new Connection(loop, log, std::move(socket), std::move(on_end)));
  CW_TRY(auto line, connection->socket_.fd().duplicate());
  CW_TRY(connection->session_, Session::open(loop, port, log, options, connection->end_later()));
  connection->session_->set_line(std::move(line));
  connection->thaw();
  return connection;
}

std::function<void()> Connection::end_later() {
  // The port tells of lost memory from within its own work: end after that.
  return [this] { end_soon_.emplace(loop_.after(std::chrono::milliseconds(0), [this] { end(); })); };
}

void Connection::freeze() {
  watch_.reset();
  session_->freeze();
}

void Connection::thaw() {
  watch_.emplace(loop_.watch(socket_.fd(), [this] { on_readable(); }));
  session_->thaw();
}

void Connection::hand_over(ParcelWriter& parcel) const {
  parcel.descriptor(socket_.fd());
  parcel.bytes(head_);
  parcel.flag(header_.has_value());
  parcel.bytes(body_);
  parcel.number(std::uint64_t{filled_});
  parcel.number(static_cast<std::uint32_t>(fds_.size()));
  for (const OwnedFd& fd : fds_) parcel.descriptor(fd);
  parcel.text(fds_error_ ? fds_error_->what : std::string());
  session_->hand_over(parcel);
}

Result<std::unique_ptr<Connection>> Connection::take_over(Loop& loop, port::Port& port, PortLog& log,
                                                          SessionOptions options, ParcelReader& parcel, OnEnd on_end) {
  CW_TRY(auto fd, parcel.descriptor());
  CW_TRY(auto socket, UnixSocket::adopt(std::move(fd)));
  std::unique_ptr<Connection> connection(new Connection(loop, log, std::move(socket), std::move(on_end)));
  CW_CHECK(connection->read_input(parcel));
  CW_TRY(auto line, connection->socket_.fd().duplicate());
  CW_TRY(connection->session_, Session::take_over(loop, port, log, options, connection->end_later(), parcel));
  connection->session_->set_line(std::move(line));
  return connection;
}

Result<void> Connection::read_input(ParcelReader& parcel) {
  const auto head = parcel.bytes();
  if (head.size() != head_.size()) parcel.refuse("a header of another size");
  const bool has_header = parcel.flag();
  body_ = parcel.bytes();
  filled_ = parcel.number<std::uint64_t>();
  const auto fds = parcel.count(sizeof(std::uint32_t));
  for (std::uint32_t i = 0; i < fds; ++i) {
    CW_TRY(auto fd, parcel.descriptor());
    fds_.push_back(std::move(fd));
  }
  if (auto error = parcel.text(); !error.empty()) fds_error_ = Error{.code = Errc::system, .what = std::move(error)};
  if (parcel.has_failed()) return parcel.finish();
  std::ranges::copy(head, head_.begin());
  if (has_header) {
    CW_TRY(header_, decode_header(head_));
  }
  if (filled_ >= (has_header ? body_.size() : head_.size()))
    return fail(Errc::peer_violation, "a message read too far");
  return {};
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

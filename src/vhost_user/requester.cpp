#include "vhost_user/requester.h"

#include <fmt/format.h>

#include <poll.h>

#include <array>
#include <cerrno>
#include <utility>
#include <vector>

namespace causeway::vhost_user {
namespace {

Request request_of(const FrontendMessage& message) {
  return std::visit([](const auto& alternative) { return alternative.kRequest; }, message);
}

}  // namespace

Result<Answer> Requester::ask(const FrontendMessage& message) {
  const Request request = request_of(message);
  if (auto sent = send(message, false); !sent) return broken(std::move(sent).error(), request);
  auto answer = receive(request);
  if (!answer) return broken(std::move(answer).error(), request);
  return answer;
}

Result<void> Requester::tell(const FrontendMessage& message, bool acknowledged) {
  const Request request = request_of(message);
  if (auto sent = send(message, acknowledged); !sent) return broken(std::move(sent).error(), request);
  if (!acknowledged) return {};
  const auto answer = receive(request);
  if (!answer) return broken(answer.error(), request);
  const std::uint64_t value = std::get<U64Answer>(*answer).value;
  if (value == 0) return {};
  return fail(Errc::not_supported, fmt::format("{}: the back-end refuses (answers {})", spec_of(request).name, value));
}

Failure Requester::broken(Error error, Request request) {
  const auto name = spec_of(request).name;
  if (!error.what.starts_with(name)) error = std::move(error).context(name);
  close(error);
  return fail(std::move(error));
}

void Requester::close(const Error& why) {
  if (!socket_) return;
  if (on_close_) std::exchange(on_close_, nullptr)(why);
  socket_.reset();
}

Result<void> Requester::send(const FrontendMessage& message, bool need_reply) {
  if (!socket_) return fail(Errc::gone, "the back-end is not connected");
  const Outgoing out = encode(message, need_reply);
  auto sent = socket_->send(out.bytes, out.fds);
  if (sent) return {};
  Error error = std::move(sent).error();
  if (error.sys_errno == EPIPE || error.sys_errno == ECONNRESET) {
    return fail(Errc::gone, "the back-end has closed the connection");
  }
  return fail(std::move(error));
}

Result<Answer> Requester::receive(Request request) {
  const auto deadline = Clock::now() + patience_;
  ReplyFiles files;
  std::array<std::byte, kHeaderSize> head{};
  CW_CHECK(read_all(head, deadline, files));
  CW_TRY(const auto header, decode_header(head, HeaderOf::reply));
  Bytes body(header.size);
  CW_CHECK(read_all(body, deadline, files));
  return decode_reply(request, header, body, files);
}

Result<void> Requester::read_all(std::span<std::byte> to, Clock::time_point deadline, ReplyFiles& files) {
  while (!to.empty()) {
    CW_TRY(auto received, socket_->receive(to));
    if (received.closed) return fail(Errc::gone, "the back-end has closed the connection");
    files.count += received.fds.size() + (received.truncated ? 1 : 0);
    if (!files.first && !received.fds.empty()) {
      files.first = std::make_shared<const OwnedFd>(std::move(received.fds.front()));
    }
    to = to.subspan(received.bytes);
    if (received.bytes == 0) CW_CHECK(wait_readable(deadline));
  }
  return {};
}

Result<void> Requester::wait_readable(Clock::time_point deadline) {
  using std::chrono::milliseconds;
  std::array<pollfd, 2> entries{pollfd{.fd = socket_->fd().borrow(), .events = POLLIN, .revents = 0}, pollfd{}};
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
    if (left <= milliseconds(0)) {
      return fail(Errc::gone, fmt::format("the back-end has not answered in {} ms", patience_.count()));
    }
    if (aside_) entries[1] = {.fd = aside_->fd->borrow(), .events = POLLIN, .revents = 0};
    const int ready = ::poll(entries.data(), aside_ ? 2 : 1, static_cast<int>(left.count()));
    if (ready < 0 && errno != EINTR) return fail(system_error("poll"));
    if (ready <= 0) continue;
    if (aside_ && entries[1].revents != 0 && !aside_->attend()) aside_.reset();
    if (entries[0].revents != 0) return {};
  }
}

void Requester::look() {
  if (!socket_) return;
  std::array<std::byte, kHeaderSize> head{};
  const auto received = socket_->receive(head);
  if (!received) return close(received.error());
  if (received->closed) return close({.code = Errc::gone, .what = "the back-end has closed the connection"});
  if (received->bytes == 0) return;
  close({.code = Errc::peer_violation, .what = "the back-end sends where nothing was asked"});
}

}  // namespace causeway::vhost_user

#include "vhost_user/event_channel.h"

#include "base/log.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::vhost_user {
namespace {

/// Reads in one go, so that a back-end that never stops sending cannot keep the loop.
constexpr int kReadsPerTurn = 64;

}  // namespace

EventChannel::EventChannel(Loop& loop, UnixSocket socket, std::string subject, Check check, OnMessage on_message)
    : loop_(loop),
      socket_(std::move(socket)),
      subject_(std::move(subject)),
      check_(std::move(check)),
      on_message_(std::move(on_message)) {
  watch_.emplace(loop_.watch(socket_.fd(), [this] { attend(); }));
}

bool EventChannel::attend() {
  for (int i = 0; i < kReadsPerTurn && is_open() && read_some(); ++i) continue;
  return is_open();
}

bool EventChannel::read_some() {
  const auto wanted = header_ ? std::span<std::byte>(body_) : std::span<std::byte>(head_);
  auto received = socket_.receive(wanted.subspan(filled_));
  if (!received) return close(received.error().text());
  if (received->closed) {
    watch_.reset();
    return false;
  }
  if (received->bytes == 0) return false;
  files_.count += received->fds.size() + (received->truncated ? 1 : 0);
  if (!files_.first && !received->fds.empty()) {
    files_.first = std::make_shared<const OwnedFd>(std::move(received->fds.front()));
  }
  filled_ += received->bytes;
  if (filled_ < wanted.size()) return true;
  filled_ = 0;
  if (header_) return on_message();
  auto header = decode_header(head_, HeaderOf::backend_message);
  if (!header) return close(header.error().text());
  header_ = *header;
  body_.assign(header->size, std::byte{0});
  return body_.empty() ? on_message() : true;
}

bool EventChannel::on_message() {
  const Header header = *std::exchange(header_, std::nullopt);
  auto message = decode_backend_message(header, body_, std::exchange(files_, {}));
  if (message) {
    if (auto allowed = check_(*message); !allowed) message = fail(std::move(allowed).error());
  }
  if (!message && message.error().code == Errc::peer_violation) return close(message.error().text());
  if (header.need_reply) {
    if (auto sent = socket_.send(encode_backend_reply(header.request, message ? 0 : 1)); !sent) {
      return close(sent.error().text());
    }
  }
  if (!message) {
    log::warn("{}: {}", subject_, message.error().text());
    return true;
  }
  keep(*std::move(message));
  return true;
}

void EventChannel::keep(BackendMessage message) {
  if (is_offer(message.request)) drop(message.request, message.queue);
  if (std::ranges::find(arrived_, message) == arrived_.end()) arrived_.push_back(std::move(message));
  if (!deliver_soon_) deliver_soon_.emplace(loop_.after(std::chrono::milliseconds(0), [this] { deliver(); }));
}

void EventChannel::drop_offers(QueueIndex queue) {
  for (const auto request : {BackendRequest::vring_host_notifier_msg, BackendRequest::vring_vfio_group_msg}) {
    drop(request, queue);
  }
}

void EventChannel::drop(BackendRequest request, QueueIndex queue) {
  std::erase_if(arrived_, [request, queue](const BackendMessage& message) {
    return message.request == request && message.queue == queue;
  });
}

void EventChannel::deliver() {
  deliver_soon_.reset();
  const auto messages = std::exchange(arrived_, {});
  // What is told may end this channel: nothing of it is touched after a call.
  const OnMessage tell = on_message_;
  for (const BackendMessage& message : messages) tell(message);
}

bool EventChannel::close(std::string_view why) {
  log::warn("{}: back-end channel closed: {}", subject_, why);
  watch_.reset();
  return false;
}

}  // namespace causeway::vhost_user

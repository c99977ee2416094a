#include "vhost_user/backend_channel.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::vhost_user {

BackendChannel::BackendChannel(Loop& loop, PortLog& log, UnixSocket socket, bool acknowledged)
    : loop_(loop), log_(log), socket_(std::move(socket)), acknowledged_(acknowledged) {
  thaw();
}

void BackendChannel::thaw() {
  if (is_open_) watch_.emplace(loop_.watch(socket_.fd(), [this] { on_readable(); }));
}

void BackendChannel::hand_over(ParcelWriter& parcel) const {
  const auto write = [&parcel](const BackendMessage& message) {
    parcel.number(static_cast<std::uint32_t>(message.request));
    parcel.number(virtio::number(message.queue));
  };
  parcel.descriptor(socket_.fd());
  parcel.flag(acknowledged_);
  parcel.flag(unanswered_.has_value());
  if (unanswered_) write(*unanswered_);
  parcel.bytes(std::span(reply_).first(filled_));
  parcel.number(static_cast<std::uint32_t>(waiting_.size()));
  for (const BackendMessage& message : waiting_) write(message);
}

Result<std::unique_ptr<BackendChannel>> BackendChannel::take_over(Loop& loop, PortLog& log, ParcelReader& parcel) {
  const auto read = [&parcel] {
    const auto request = static_cast<BackendRequest>(parcel.number<std::uint32_t>());
    return BackendMessage{.request = request, .queue = QueueIndex{parcel.number<std::uint16_t>()}};
  };
  CW_TRY(auto fd, parcel.descriptor());
  CW_TRY(auto socket, UnixSocket::adopt(std::move(fd)));
  auto channel = std::make_unique<BackendChannel>(loop, log, std::move(socket), parcel.flag());
  if (parcel.flag()) channel->unanswered_ = read();
  const auto partial = parcel.bytes();
  if (partial.size() >= channel->reply_.size()) parcel.refuse("a reply on the back-end channel that is too long");
  if (parcel.has_failed()) return fail(parcel.finish().error());
  std::ranges::copy(partial, channel->reply_.begin());
  channel->filled_ = partial.size();
  const auto waiting = parcel.count(sizeof(std::uint32_t));
  for (std::uint32_t i = 0; i < waiting; ++i) channel->waiting_.push_back(read());
  return channel;
}

void BackendChannel::send(BackendMessage message) {
  if (!is_open() || std::ranges::find(waiting_, message) != waiting_.end()) return;
  waiting_.push_back(message);
  send_next();
}

void BackendChannel::drop(QueueIndex queue) {
  std::erase_if(waiting_, [queue](const BackendMessage& message) {
    return message.request != BackendRequest::config_change_msg && message.queue == queue;
  });
}

void BackendChannel::send_next() {
  while (is_open() && !unanswered_ && !waiting_.empty()) {
    const BackendMessage message = waiting_.front();
    waiting_.pop_front();
    const Bytes bytes = message.request == BackendRequest::config_change_msg
                            ? encode_config_change(acknowledged_)
                            : encode_vring_event(message.request, message.queue, acknowledged_);
    if (acknowledged_) unanswered_ = message;
    if (auto sent = socket_.send(bytes); !sent) {
      close(fmt::format("{}: {}", spec_of(message.request).name, sent.error().text()));
    }
  }
}

void BackendChannel::on_readable() {
  auto received = socket_.receive(std::span(reply_).subspan(filled_));
  if (!received) return close(received.error().text());
  if (received->closed) return forget();  // its right, and the first thing seen of a front-end that leaves
  if (!received->fds.empty()) return close("a reply with descriptors");
  filled_ += received->bytes;
  if (filled_ == reply_.size()) take_reply();
}

void BackendChannel::take_reply() {
  filled_ = 0;
  if (!unanswered_) return close("a reply that was not asked for");
  const auto request = unanswered_->request;
  const auto value = decode_backend_reply(request, reply_);
  if (!value) return close(value.error().text());
  if (*value != 0) log_.warn(fmt::format("{}: the front-end answers {}", spec_of(request).name, *value));
  unanswered_.reset();
  send_next();
}

void BackendChannel::close(std::string_view why) {
  log_.warn(fmt::format("back-end channel closed: {}", why));
  forget();
}

void BackendChannel::forget() {
  is_open_ = false;
  watch_.reset();
  waiting_.clear();
}

}  // namespace causeway::vhost_user

#include "vhost_user/backend_channel.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace causeway::vhost_user {
namespace {

bool is_doorbell(const BackendMessage& message) {
  return message.request == BackendRequest::vring_host_notifier_msg;
}

}  // namespace

BackendChannel::BackendChannel(Loop& loop, PortLog& log, UnixSocket socket, bool acknowledged, OnDoorbell on_doorbell)
    : loop_(loop),
      log_(log),
      socket_(std::move(socket)),
      acknowledged_(acknowledged),
      on_doorbell_(std::move(on_doorbell)) {
  thaw();
}

void BackendChannel::thaw() {
  if (!is_open_) return;
  watch_.emplace(loop_.watch(socket_.fd(), [this] { on_readable(); }));
  send_next();
}

void BackendChannel::hand_over(ParcelWriter& parcel, Told told) const {
  const auto write = [&parcel](BackendRequest request, QueueIndex queue) {
    parcel.number(static_cast<std::uint32_t>(request));
    parcel.number(virtio::number(queue));
  };
  std::vector<BackendMessage> rest;
  for (const BackendMessage& message : waiting_) {
    if (message.miss) continue;  // the other process asks for what it lacks
    if (!is_offer(message.request)) {
      rest.push_back(message);
    } else if (!message.area && !message.group) {
      told.emplace(message.request, message.queue);
    }
  }
  parcel.descriptor(socket_.fd());
  parcel.flag(acknowledged_);
  parcel.flag(unanswered_.has_value());
  if (unanswered_) {
    write(unanswered_->request, unanswered_->queue);
    if (is_offer(unanswered_->request)) told.emplace(unanswered_->request, unanswered_->queue);
  }
  parcel.bytes(std::span(reply_).first(filled_));
  parcel.number(static_cast<std::uint32_t>(told.size() + rest.size()));
  for (const auto& [request, queue] : told) write(request, queue);
  for (const BackendMessage& message : rest) write(message.request, message.queue);
}

Result<std::unique_ptr<BackendChannel>> BackendChannel::take_over(Loop& loop, PortLog& log, OnDoorbell on_doorbell,
                                                                  ParcelReader& parcel) {
  const auto read = [&parcel] {
    const auto request = parcel.number<std::uint32_t>();
    const QueueIndex queue{parcel.number<std::uint16_t>()};
    if (find_backend_message(request) == nullptr) parcel.refuse("a message to the front-end that does not exist");
    return BackendMessage{.request = static_cast<BackendRequest>(request), .queue = queue};
  };
  CW_TRY(auto fd, parcel.descriptor());
  CW_TRY(auto socket, UnixSocket::adopt(std::move(fd)));
  const bool acknowledged = parcel.flag();
  auto channel = std::make_unique<BackendChannel>(loop, log, std::move(socket), acknowledged, std::move(on_doorbell));
  channel->freeze();
  if (parcel.flag()) channel->unanswered_ = read();
  const auto partial = parcel.bytes();
  if (partial.size() >= channel->reply_.size()) parcel.refuse("a reply on the back-end channel that is too long");
  if (parcel.has_failed()) return fail(parcel.finish().error());
  std::ranges::copy(partial, channel->reply_.begin());
  channel->filled_ = partial.size();
  const auto waiting = parcel.count(sizeof(std::uint32_t));
  for (std::uint32_t i = 0; i < waiting; ++i) channel->waiting_.push_back(read());
  if (parcel.has_failed()) return fail(parcel.finish().error());
  return channel;
}

void BackendChannel::send(BackendMessage message) {
  if (!is_open() || std::ranges::find(waiting_, message) != waiting_.end()) return;
  waiting_.push_back(std::move(message));
  send_next();
}

void BackendChannel::drop(QueueIndex queue) {
  std::erase_if(waiting_, [queue](const BackendMessage& message) {
    return message.request != BackendRequest::config_change_msg && !message.miss && message.queue == queue;
  });
}

bool BackendChannel::cancel_offer(BackendRequest request, QueueIndex queue) {
  return std::erase_if(waiting_, [request, queue](const BackendMessage& message) {
           return message.request == request && message.queue == queue && (message.area || message.group);
         }) != 0;
}

bool BackendChannel::has_waiting_doorbell(QueueIndex queue) const {
  return std::ranges::any_of(
      waiting_, [queue](const BackendMessage& message) { return is_doorbell(message) && message.queue == queue; });
}

/// Misses wait for nobody and are not acknowledged: the answer is a message on the other channel.
void BackendChannel::send_misses() {
  while (is_open() && watch_) {
    const auto next =
        std::ranges::find_if(waiting_, [](const BackendMessage& message) { return message.miss.has_value(); });
    if (next == waiting_.end()) return;
    const Outgoing out = encode(*next, false);
    waiting_.erase(next);
    if (auto sent = socket_.send(out.bytes, out.fds); !sent) {
      close(fmt::format("{}: {}", spec_of(BackendRequest::iotlb_msg).name, sent.error().text()));
    }
  }
}

void BackendChannel::send_next() {
  send_misses();
  while (is_open() && watch_ && !unanswered_ && !waiting_.empty()) {
    const BackendMessage message = std::move(waiting_.front());
    waiting_.pop_front();
    const Outgoing out = encode(message, acknowledged_);
    if (acknowledged_) unanswered_ = message;
    // A front-end that does not answer must not keep a group from being closed here.
    if (unanswered_) unanswered_->group.reset();
    if (auto sent = socket_.send(out.bytes, out.fds); !sent) {
      close(fmt::format("{}: {}", spec_of(message.request).name, sent.error().text()));
    } else if (!acknowledged_ && is_doorbell(message)) {
      on_doorbell_(message, true);
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
  const BackendMessage message = *unanswered_;
  const auto value = decode_backend_reply(message.request, reply_);
  if (!value) return close(value.error().text());
  unanswered_.reset();
  if (is_doorbell(message)) {
    on_doorbell_(message, *value == 0);
  } else if (*value != 0) {
    log_.warn(fmt::format("{}: the front-end answers {}", spec_of(message.request).name, *value));
  }
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

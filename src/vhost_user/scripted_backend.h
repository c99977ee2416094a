// A back-end in a thread of its own whose every answer a test decides.
#pragma once

#include "vhost_user/test_support.h"
#include "virtio/inflight.h"

#include <unistd.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace causeway::vhost_user::testing {

using std::chrono::milliseconds;

inline std::filesystem::path test_socket() {
  return fmt::format("/tmp/causeway-frontend-test-{}.sock", ::getpid());
}

/// What a test has a back-end send instead of a reply.
struct Retort {
  Bytes bytes;                  ///< nothing: stays silent
  std::size_t descriptors = 0;  ///< sent along
  bool hangs_up = false;
};

/// A back-end in a thread that answers as a good one does, but for the requests for which a retort is given.
class ScriptedBackend {
 public:
  using Script = std::map<Request, Retort>;
  ScriptedBackend(ProtocolFeatures offered, Script script, virtio::FeatureSet features = {virtio::Feature::version_1})
      : offered_(offered),
        script_(std::move(script)),
        features_(features),
        listener_(*UnixListener::bind(test_socket())),
        thread_([this](const std::stop_token& stop) { serve(stop); }) {}

  /// The requests that have come, in order.
  std::vector<Request> seen() {
    const std::scoped_lock lock(mutex_);
    return seen_;
  }
  /// What has come with SET_VRING_BASE, in order.
  std::vector<std::uint32_t> bases() {
    const std::scoped_lock lock(mutex_);
    return bases_;
  }
  /// The files that have come with SET_INFLIGHT_FD, in order.
  std::vector<std::shared_ptr<const OwnedFd>> records() {
    const std::scoped_lock lock(mutex_);
    return records_;
  }
  /// Sends on the back-end channel, once that is there; false: it is not, or closed.
  bool send_event(const Bytes& bytes, const std::vector<const OwnedFd*>& fds) {
    const std::scoped_lock lock(mutex_);
    return channel_ && channel_->send(bytes, fds).has_value();
  }
  /// What has come on the back-end channel, at most `most` bytes.
  Bytes read_event_reply(std::size_t most) {
    const std::scoped_lock lock(mutex_);
    Bytes bytes(most);
    const auto got = channel_->receive(bytes);
    bytes.resize(got ? got->bytes : 0);
    return bytes;
  }

 private:
  void serve(const std::stop_token& stop) {
    std::optional<UnixSocket> socket;
    while (!stop.stop_requested() && !socket) {
      if (auto accepted = listener_.accept()) socket.emplace(std::move(*accepted));
      std::this_thread::sleep_for(milliseconds(1));
    }
    while (!stop.stop_requested() && socket && answer_one(stop, *socket)) continue;
  }
  bool read(const std::stop_token& stop, UnixSocket& socket, std::span<std::byte> to) {
    while (!to.empty()) {
      auto got = socket.receive(to);
      if (!got || got->closed || stop.stop_requested()) return false;
      for (auto& fd : got->fds) fds_.push_back(std::move(fd));
      if (got->bytes == 0) std::this_thread::sleep_for(milliseconds(1));
      to = to.subspan(got->bytes);
    }
    return true;
  }
  bool answer_one(const std::stop_token& stop, UnixSocket& socket) {
    Bytes head(kHeaderSize);
    if (!read(stop, socket, head)) return false;
    const auto header = value_of<wire::Header>(head);
    Bytes body(header.size);
    if (!read(stop, socket, body)) return false;
    const auto request = static_cast<Request>(header.request);
    note(request, body);
    if (const auto found = script_.find(request); found != script_.end()) {
      const Retort& retort = found->second;
      if (retort.hangs_up) return false;
      const std::vector<const OwnedFd*> fds(retort.descriptors, &listener_.fd());
      return retort.bytes.empty() || socket.send(retort.bytes, fds).has_value();
    }
    if (request == Request::get_inflight_fd) return send_record(socket, body);
    const Bytes reply = good_reply(request, header, body);
    return reply.empty() || socket.send(reply).has_value();
  }
  void note(Request request, const Bytes& body) {
    const std::scoped_lock lock(mutex_);
    seen_.push_back(request);
    if (request == Request::set_vring_base) bases_.push_back(value_of<wire::VringState>(body).number);
    if (request == Request::set_inflight_fd && !fds_.empty()) {
      records_.push_back(std::make_shared<const OwnedFd>(std::move(fds_.back())));
    }
    if (request == Request::set_backend_req_fd && !fds_.empty()) {
      channel_.emplace(*UnixSocket::adopt(std::move(fds_.back())));
    }
    fds_.clear();
  }
  static bool send_record(UnixSocket& socket, const Bytes& body) {
    const auto queues = value_of<std::uint16_t>(std::span(body).subspan(16));
    const auto entries = value_of<std::uint16_t>(std::span(body).subspan(18));
    const std::uint64_t size = queues * virtio::InflightArea::size(virtio::Layout::packed, entries);
    const auto file = std::make_shared<const OwnedFd>(*make_memfd("record", size));
    const InflightAnswer answer{
        .region = {.size = size, .offset = 0, .queues = queues, .entries = entries}, .payload_size = 24, .file = file};
    const std::vector<const OwnedFd*> fds{file.get()};
    return socket.send(encode_reply(std::to_underlying(Request::get_inflight_fd), answer), fds).has_value();
  }
  Bytes good_reply(Request request, const wire::Header& header, const Bytes& body) const {
    const auto number = header.request;
    const auto features = features_.with(kProtocolFeaturesBit);
    switch (request) {
      case Request::get_features:
        return encode_reply(number, U64Answer{features.bits()});
      case Request::get_protocol_features:
        return encode_reply(number, U64Answer{offered_.bits()});
      case Request::get_queue_num:
        return encode_reply(number, U64Answer{1});
      case Request::get_max_mem_slots:
        return encode_reply(number, U64Answer{32});
      case Request::get_status:
        return encode_reply(number, U64Answer{0xf});
      case Request::get_config:
        return message(number, wire::kVersion | wire::kReplyFlag, body);
      case Request::get_vring_base:
      case Request::get_vring_base_skip_drain:
        return message(number, wire::kVersion | wire::kReplyFlag, body);
      default:
        return (header.flags & wire::kNeedReplyFlag) != 0 ? encode_reply(number, Done{}) : Bytes();
    }
  }

  ProtocolFeatures offered_;
  Script script_;
  virtio::FeatureSet features_;
  UnixListener listener_;
  std::mutex mutex_;
  std::vector<Request> seen_;
  std::vector<std::uint32_t> bases_;
  std::vector<std::shared_ptr<const OwnedFd>> records_;
  std::optional<UnixSocket> channel_;
  std::vector<OwnedFd> fds_;
  std::jthread thread_;
};

}  // namespace causeway::vhost_user::testing

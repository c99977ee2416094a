// A link's slow path: copies of what passes, and frames that come from nowhere.
#include "net/link.h"

#include <cstring>

namespace causeway::net {
namespace {

/// The VLAN that a frame of our own is tagged with.
std::optional<std::uint16_t> vlan_of(std::span<const std::byte> frame, const EthernetHeader& ethernet) {
  constexpr std::size_t kTag = sizeof(EthernetHeader);
  if (ethernet.type() != kEtherTypeVlan || frame.size() < kTag + 2) return std::nullopt;
  const unsigned tag = std::to_integer<unsigned>(frame[kTag]) << 8 | std::to_integer<unsigned>(frame[kTag + 1]);
  return static_cast<std::uint16_t>(tag & 0xfff);
}

}  // namespace

/// Puts a pair's queue where frames pass, with the capture before it where there is one.
void Link::place_transmit(std::uint16_t pair) {
  Captured& queues = captured_[pair];
  const bool is_captured = capture_ != nullptr && queues.transmit != nullptr;
  auto before = is_captured ? captured(*queues.transmit, *capture_) : nullptr;
  pairs_[pair].transmit = before ? before.get() : queues.transmit;
  queues.before_transmit = std::move(before);
}

void Link::place_receive(std::uint16_t pair) {
  Captured& queues = captured_[pair];
  const bool is_captured = capture_ != nullptr && queues.receive != nullptr;
  auto before = is_captured ? captured(*queues.receive, *capture_) : nullptr;
  pairs_[pair].receive = before ? before.get() : queues.receive;
  if (pairs_[pair].receive != nullptr) apply_offloads(*pairs_[pair].receive);
  queues.before_receive = std::move(before);
}

void Link::start_capture(std::uint32_t longest) {
  stop_capture();
  capture_ = std::make_unique<Capture>(longest);
  place_queues();
}

void Link::stop_capture() {
  const auto ended = std::move(capture_);
  place_queues();
}

void Link::place_queues() {
  for (std::uint16_t i = 0; i < kMaxQueuePairs; ++i) {
    place_transmit(i);
    place_receive(i);
  }
}

ReceiveQueue* Link::any_receiver() {
  for (const std::uint16_t pair : receivers_) {
    if (pairs_[pair].receive != nullptr) return pairs_[pair].receive;
  }
  return nullptr;
}

Link::Given Link::give(std::span<std::byte> bytes) {
  const auto segment = memory::GuestSpan::over(bytes);
  Frame frame{
      .header = {}, .ethernet = {}, .length = static_cast<std::uint32_t>(bytes.size()), .segments = {&segment, 1}};
  frame.header.num_buffers = 1;
  std::memcpy(&frame.ethernet, bytes.data(), sizeof frame.ethernet);
  // The queue that the driver wants it in may be another Device's, or on its way to one; any of ours is better than
  // none.
  bool wait = false;
  ReceiveQueue* queue = receiver_for(frame, wait);
  frame.hash = queue != nullptr ? hash() : HashResult{};
  if (queue == nullptr) queue = any_receiver();
  if (queue == nullptr) return Given::no_queue;
  if (!filter().accepts(frame.ethernet, vlan_of(bytes, frame.ethernet))) return Given::filtered;
  if (queue->buffers() == 0) return Given::no_buffer;
  const auto too_long = queue->counters().dropped_too_long.value();
  const auto no_buffer = queue->counters().dropped_no_buffer.value();
  queue->deliver(frame);
  queue->flush();
  if (queue->counters().dropped_too_long.value() != too_long) return Given::too_long;
  return queue->counters().dropped_no_buffer.value() != no_buffer ? Given::no_buffer : Given::done;
}

}  // namespace causeway::net

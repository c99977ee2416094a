#include "net/link.h"

#include "net/flow_hash.h"
#include "net/frame_start.h"

#include <algorithm>

namespace causeway::net {
namespace {

/// Enough of a frame to find its flow: Ethernet, two VLAN tags, IPv6 and ports.
constexpr std::size_t kFlowBytes = 14 + 8 + 40 + 4;

std::uint32_t flow_of(const Frame& frame) {
  std::array<std::byte, kFlowBytes> start;
  return flow_hash(read_start(frame, start));
}

}  // namespace

void Link::attach(std::uint16_t pair, TransmitQueue& queue, OnFault on_fault) {
  captured_[pair].transmit = &queue;
  place_transmit(pair);
  pairs_[pair].on_transmit_fault = std::move(on_fault);
  update();
}

void Link::attach(std::uint16_t pair, ReceiveQueue& queue, OnFault on_fault) {
  captured_[pair].receive = &queue;
  place_receive(pair);
  pairs_[pair].on_receive_fault = std::move(on_fault);
  pairs_[pair].awaited_since.reset();
  lost_waiting_ = false;
  update();
  receivers_changed();
}

void Link::detach_transmit(std::uint16_t pair) {
  captured_[pair].transmit = nullptr;
  place_transmit(pair);
  update();
}

void Link::detach_receive(std::uint16_t pair) {
  captured_[pair].receive = nullptr;
  place_receive(pair);
  if (pairs_[pair].receive_enabled) pairs_[pair].awaited_since = std::chrono::steady_clock::now();
  update();
  receivers_changed();
}

void Link::enable_transmit(std::uint16_t pair, bool enabled) {
  transmit_wanted_[pair] = enabled;
  pairs_[pair].transmit_enabled = enabled && is_up_;
}

void Link::enable_receive(std::uint16_t pair, bool enabled) {
  receive_wanted_[pair] = enabled;
  pairs_[pair].receive_enabled = enabled && is_up_;
  if (!enabled) pairs_[pair].awaited_since.reset();
  lost_waiting_ = false;
  update();
}

void Link::set_up(bool up) {
  is_up_ = up;
  for (std::uint16_t i = 0; i < kMaxQueuePairs; ++i) {
    Pair& pair = pairs_[i];
    pair.transmit_enabled = transmit_wanted_[i] && up;
    pair.receive_enabled = receive_wanted_[i] && up;
    if (!up) pair.awaited_since.reset();
  }
  update();
}

void Link::set_settings(const DriverSettings& settings) {
  const bool same_offloads = settings.guest_offloads() == settings_.guest_offloads();
  settings_ = settings;
  if (!same_offloads) {
    for (Pair& pair : pairs_) {
      if (pair.receive != nullptr) apply_offloads(*pair.receive);
    }
    receivers_changed();
  }
  update();
}

void Link::apply_offloads(ReceiveQueue& queue) const {
  queue.set_offloads(settings_.effective(queue.features()));
}

void Link::update() {
  receivers_.clear();
  pair_count_ = 0;
  for (std::uint16_t i = 0; i < kMaxQueuePairs; ++i) {
    const Pair& pair = pairs_[i];
    if (pair.transmit != nullptr || pair.receive != nullptr) pair_count_ = static_cast<std::uint16_t>(i + 1);
    const bool there = pair.receive != nullptr || pair.awaited_since.has_value();
    if (pair.receive_enabled && there && i < settings_.active_pairs()) receivers_.push_back(i);
  }
}

std::uint16_t Link::spread(const Frame& frame) const {
  const std::uint32_t flow = flow_of(frame);
  const std::uint16_t steered = steering_[flow % steering_.size()];
  return std::ranges::find(receivers_, steered) != receivers_.end() ? steered : receivers_[flow % receivers_.size()];
}

std::optional<std::uint16_t> Link::choose(const Frame& frame) {
  if (receivers_.empty()) return std::nullopt;
  if (settings_.hash().is_used()) {
    std::array<std::byte, RssHash::kStartBytes> start;
    hash_ = settings_.hash().compute(read_start(frame, start));
  }
  if (settings_.steering()) {
    // A queue that is not there loses its packets: the driver has said that they are for no other (5.1.6.5.7.2).
    const std::uint16_t pair = settings_.steering()->pair_for(hash_);
    return std::ranges::find(receivers_, pair) == receivers_.end() ? std::nullopt : std::optional(pair);
  }
  return receivers_.size() > 1 ? spread(frame) : receivers_.front();
}

ReceiveQueue* Link::receiver_for(const Frame& frame, bool& wait) {
  hash_ = {};
  const auto choice = choose(frame);
  if (!choice) return nullptr;
  Pair& pair = pairs_[*choice];
  if (pair.receive != nullptr) [[likely]]
    return pair.receive;
  if (std::chrono::steady_clock::now() - *pair.awaited_since < kPatience) {
    wait = true;
    return nullptr;
  }
  pair.awaited_since.reset();
  lost_waiting_ = true;
  update();
  return receiver_for(frame, wait);
}

void Link::count_lost(QueueCounters& sender) const {
  const bool is_disabled = std::ranges::any_of(pairs_, [](const Pair& pair) { return pair.receive != nullptr; });
  Counter& counter = lost_waiting_ ? sender.dropped_awaited
                     : is_disabled ? sender.dropped_disabled
                                   : sender.dropped_no_receiver;
  counter.add(1);
}

void Link::steer(const Frame& frame, std::uint16_t pair) {
  if (receivers_.size() > 1) steering_[flow_of(frame) % steering_.size()] = static_cast<std::uint8_t>(pair);
}

std::uint32_t Link::drop_all(TransmitQueue& queue) {
  const auto frames = queue.take();
  queue.counters().dropped_disabled.add(frames.size());
  queue.complete(frames.size());
  return static_cast<std::uint32_t>(frames.size());
}

void Link::report_faults() {
  for (std::uint16_t i = 0; i < pair_count_; ++i) {
    Pair& pair = pairs_[i];
    if (pair.transmit != nullptr && pair.transmit->fault() != virtio::RingFault::none) {
      const auto fault = pair.transmit->fault();
      captured_[i].transmit = nullptr;
      place_transmit(i);
      pair.on_transmit_fault(i, true, fault);
    }
    if (pair.receive != nullptr && pair.receive->fault() != virtio::RingFault::none) {
      const auto fault = pair.receive->fault();
      pair.receive->flush();
      captured_[i].receive = nullptr;
      place_receive(i);
      pair.on_receive_fault(i, false, fault);
    }
  }
  update();
}

void Link::flush_receivers() {
  for (const std::uint16_t index : receivers_) {
    if (pairs_[index].receive != nullptr) pairs_[index].receive->flush();
  }
}

bool Link::arm_transmitters() {
  bool work = false;
  for (std::uint16_t i = 0; i < pair_count_; ++i) {
    if (pairs_[i].transmit != nullptr && pairs_[i].transmit->arm()) work = true;
  }
  return work;
}

void Link::disarm_transmitters() {
  for (std::uint16_t i = 0; i < pair_count_; ++i) {
    if (pairs_[i].transmit != nullptr) pairs_[i].transmit->disarm();
  }
}

}  // namespace causeway::net

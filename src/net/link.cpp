#include "net/link.h"

#include "net/flow_hash.h"

#include <algorithm>

namespace causeway::net {
namespace {

/// Enough of a frame to find its flow: Ethernet, two VLAN tags, IPv6 and ports.
constexpr std::size_t kFlowBytes = 14 + 8 + 40 + 4;

std::uint32_t hash_of(const Frame& frame) {
  std::array<std::byte, kFlowBytes> start;
  std::size_t have = 0;
  std::size_t skip = frame.skip;
  for (const auto& segment : frame.segments) {
    const std::size_t count = std::min(segment.size() - skip, start.size() - have);
    segment.read(skip, std::span(start).subspan(have, count));
    have += count;
    skip = 0;
    if (have == start.size()) break;
  }
  return flow_hash(std::span(start).first(have));
}

}  // namespace

void Link::attach(std::uint16_t pair, TransmitQueue& queue, OnFault on_fault) {
  pairs_[pair].transmit = &queue;
  pairs_[pair].on_transmit_fault = std::move(on_fault);
  update();
}

void Link::attach(std::uint16_t pair, ReceiveQueue& queue, OnFault on_fault) {
  pairs_[pair].receive = &queue;
  pairs_[pair].on_receive_fault = std::move(on_fault);
  pairs_[pair].awaited_since.reset();
  update();
  receivers_changed();
}

void Link::detach_transmit(std::uint16_t pair) {
  pairs_[pair].transmit = nullptr;
  update();
}

void Link::detach_receive(std::uint16_t pair) {
  pairs_[pair].receive = nullptr;
  if (pairs_[pair].receive_enabled) pairs_[pair].awaited_since = std::chrono::steady_clock::now();
  update();
  receivers_changed();
}

void Link::enable_transmit(std::uint16_t pair, bool enabled) {
  pairs_[pair].transmit_enabled = enabled;
}

void Link::enable_receive(std::uint16_t pair, bool enabled) {
  pairs_[pair].receive_enabled = enabled;
  if (!enabled) pairs_[pair].awaited_since.reset();
  update();
}

void Link::set_filter(const ReceiveFilter& filter) {
  filter_ = filter;
  update();
}

void Link::update() {
  receivers_.clear();
  pair_count_ = 0;
  for (std::uint16_t i = 0; i < kMaxQueuePairs; ++i) {
    const Pair& pair = pairs_[i];
    if (pair.transmit != nullptr || pair.receive != nullptr) pair_count_ = static_cast<std::uint16_t>(i + 1);
    const bool there = pair.receive != nullptr || pair.awaited_since.has_value();
    if (pair.receive_enabled && there && i < filter_.active_pairs()) receivers_.push_back(i);
  }
}

ReceiveQueue* Link::receiver_for(const Frame& frame, bool& wait) {
  if (receivers_.empty()) return nullptr;
  std::uint16_t choice = receivers_.front();
  if (receivers_.size() > 1) {
    const std::uint32_t hash = hash_of(frame);
    const std::uint16_t steered = steering_[hash % steering_.size()];
    choice =
        std::ranges::find(receivers_, steered) != receivers_.end() ? steered : receivers_[hash % receivers_.size()];
  }
  Pair& pair = pairs_[choice];
  if (pair.receive != nullptr) [[likely]]
    return pair.receive;
  if (std::chrono::steady_clock::now() - *pair.awaited_since < kPatience) {
    wait = true;
    return nullptr;
  }
  pair.awaited_since.reset();
  update();
  return receiver_for(frame, wait);
}

void Link::steer(const Frame& frame, std::uint16_t pair) {
  if (receivers_.size() > 1) steering_[hash_of(frame) % steering_.size()] = static_cast<std::uint8_t>(pair);
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
      pair.transmit = nullptr;
      pair.on_transmit_fault(i, true, fault);
    }
    if (pair.receive != nullptr && pair.receive->fault() != virtio::RingFault::none) {
      const auto fault = pair.receive->fault();
      pair.receive->flush();
      pair.receive = nullptr;
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

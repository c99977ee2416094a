#include "net/reflector.h"

#include "net/offload.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace causeway::net {
namespace {

std::vector<std::byte> make_pattern(std::uint32_t size) {
  const EthernetHeader ethernet{.destination = {{0x52, 0x54, 0, 0, 0, 1}},
                                .source = {{0x52, 0x54, 0, 0, 0, 2}},
                                .ether_type = {0x88, 0xb5}};  // IEEE 802: for local experiments
  std::vector<std::byte> pattern(size);
  std::memcpy(pattern.data(), &ethernet, sizeof ethernet);
  return pattern;
}

}  // namespace

Reflector::Reflector(Worker& worker, std::string name, Reflection reflection, std::uint32_t frame_bytes)
    : Link(worker, std::move(name)),
      reflection_(reflection),
      pattern_(make_pattern(frame_bytes)),
      segment_(memory::GuestSpan::over(pattern_)),
      swallowed_(kMaxFrame) {
  Frame frame{.header = {}, .ethernet = {}, .length = frame_bytes, .segments = {&segment_, 1}};
  frame.header.num_buffers = 1;
  std::memcpy(&frame.ethernet, pattern_.data(), sizeof frame.ethernet);
  frames_.assign(TransmitQueue::kBatch, frame);
  worker.run([this] { Link::worker().add(*this); });
}

Reflector::~Reflector() {
  worker().run([this] { worker().remove(*this); });
}

std::uint32_t Reflector::poll() {
  std::uint32_t moved = 0;
  bool fault = false;
  for (std::uint16_t i = 0; i < pair_count(); ++i) {
    Pair& pair = pairs()[i];
    if (pair.transmit != nullptr && pair.transmit->has_work()) {
      if (!pair.transmit_enabled) {
        moved += drop_all(*pair.transmit);
      } else if (reflection_ == Reflection::reflect) {
        moved += reflect(pair);
      } else {
        moved += sink(*pair.transmit);
      }
    }
    if (reflection_ == Reflection::source && pair.receive != nullptr && pair.receive_enabled) {
      moved += source(*pair.receive);
    }
    fault = fault || (pair.transmit != nullptr && pair.transmit->fault() != virtio::RingFault::none) ||
            (pair.receive != nullptr && pair.receive->fault() != virtio::RingFault::none);
  }
  if (fault) [[unlikely]]
    report_faults();
  return moved;
}

std::uint32_t Reflector::reflect(Pair& pair) {
  using std::chrono::steady_clock;
  if (pair.receive == nullptr && pair.awaited_since && steady_clock::now() - *pair.awaited_since < kPatience) return 0;
  TransmitQueue& queue = *pair.transmit;
  const bool receives = pair.receive != nullptr && pair.receive_enabled;
  const auto frames = queue.take();
  if (receives) {
    send_back(frames, queue, *pair.receive);
  } else {
    queue.counters().dropped_disabled.add(frames.size());
  }
  queue.complete(frames.size());
  return static_cast<std::uint32_t>(frames.size());
}

void Reflector::send_back(std::span<Frame> frames, TransmitQueue& from, ReceiveQueue& to) {
  std::size_t row = 0;  // good frames are delivered together
  for (std::size_t i = 0; i < frames.size(); ++i) {
    Frame& frame = frames[i];
    if (frame.length == 0) [[unlikely]] {
      from.count_bad(frame);
      to.deliver(frames.subspan(row, i - row));
      row = i + 1;
      continue;
    }
    std::swap(frame.ethernet.destination, frame.ethernet.source);
    // The driver gets back only what it can take: a driver may send with offloads that it does not accept itself.
    if (needs_resolution(frame.header, to.features())) frame.header = virtio::NetHeader{};
  }
  to.deliver(frames.subspan(row));
  to.flush();
}

std::uint32_t Reflector::sink(TransmitQueue& queue) {
  const auto frames = queue.take();
  for (const Frame& frame : frames) {
    std::size_t at = 0;
    std::size_t skip = frame.skip;
    for (const auto& segment : frame.segments) {
      const std::size_t count = segment.size() - skip;
      segment.read(skip, std::span(swallowed_).subspan(at, count));
      at += count;
      skip = 0;
    }
  }
  queue.complete(frames.size());
  return static_cast<std::uint32_t>(frames.size());
}

std::uint32_t Reflector::source(ReceiveQueue& queue) {
  const std::size_t count = std::min<std::size_t>(queue.buffers(), frames_.size());
  queue.deliver(std::span(frames_).first(count));
  queue.flush();
  return static_cast<std::uint32_t>(count);
}

bool Reflector::arm() {
  bool work = arm_transmitters();
  if (reflection_ != Reflection::source) return work;
  for (std::uint16_t i = 0; i < pair_count(); ++i) {
    if (pairs()[i].receive != nullptr && pairs()[i].receive_enabled && pairs()[i].receive->arm()) work = true;
  }
  return work;
}

void Reflector::disarm() {
  disarm_transmitters();
  for (std::uint16_t i = 0; i < pair_count(); ++i) {
    if (pairs()[i].receive != nullptr) pairs()[i].receive->disarm();
  }
}

}  // namespace causeway::net

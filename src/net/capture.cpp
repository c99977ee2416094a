#include "net/capture.h"

#include <algorithm>
#include <array>
#include <utility>

namespace causeway::net {
namespace {

class CapturedTransmitQueue final : public TransmitQueue {
 public:
  CapturedTransmitQueue(TransmitQueue& queue, Capture& capture)
      : TransmitQueue(queue.counters()), queue_(queue), capture_(capture) {}

  bool has_work() override { return queue_.has_work(); }
  std::span<Frame> take() override {
    const auto frames = queue_.take();
    // Now, since whoever moves a frame may change it; to be kept once it has been moved.
    taken_.clear();
    for (const Frame& frame : frames) taken_.push_back(frame.length == 0 ? CapturedFrame{} : capture_.copy(frame));
    return frames;
  }
  void complete(std::size_t count) override {
    for (auto& frame : std::span(taken_).first(std::min(count, taken_.size()))) {
      if (frame.length != 0) capture_.keep(std::move(frame));
    }
    taken_.clear();
    queue_.complete(count);
  }
  bool arm() override { return queue_.arm(); }
  void disarm() override { queue_.disarm(); }
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map) override {
    return queue_.replace_map(std::move(map));
  }
  virtio::RingFault fault() const override { return queue_.fault(); }
  virtio::QueueState state() const override { return queue_.state(); }

 private:
  TransmitQueue& queue_;
  Capture& capture_;
  std::vector<CapturedFrame> taken_;
};

class CapturedReceiveQueue final : public ReceiveQueue {
 public:
  CapturedReceiveQueue(ReceiveQueue& queue, Capture& capture)
      : ReceiveQueue(queue.features(), queue.counters()), queue_(queue), capture_(capture) {}

  void deliver(std::span<const Frame> frames) override {
    for (const Frame& frame : frames) {
      // The copy comes first: a driver that has its frame may send it on, and what is sent must not come before it.
      auto copy = capture_.copy(frame);
      const auto before = lost();
      queue_.deliver(std::span(&frame, 1));
      if (lost() == before) capture_.keep(std::move(copy));
    }
  }
  bool deliver(const virtio::NetHeader& header, std::span<const std::byte> frame, HashResult hash) override {
    auto copy = capture_.copy(frame);
    const bool taken = queue_.deliver(header, frame, hash);
    if (taken) capture_.keep(std::move(copy));
    return taken;
  }
  std::span<const iovec> prepare(std::uint32_t frame_bytes) override { return prepared_ = queue_.prepare(frame_bytes); }
  bool commit(std::size_t bytes) override {
    const std::size_t header = net_header_size(features());
    if (bytes <= header) return queue_.commit(bytes);
    auto copy = capture_.copy(prepared_, header, bytes - header);
    const bool taken = queue_.commit(bytes);
    if (taken) capture_.keep(std::move(copy));
    return taken;
  }
  void flush() override { queue_.flush(); }
  std::size_t buffers() override { return queue_.buffers(); }
  bool arm() override { return queue_.arm(); }
  void disarm() override { queue_.disarm(); }
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map) override {
    return queue_.replace_map(std::move(map));
  }
  virtio::RingFault fault() const override { return queue_.fault(); }
  virtio::QueueState stop() override { return queue_.stop(); }

 private:
  std::uint64_t lost() { return counters().dropped_no_buffer.value() + counters().dropped_too_long.value(); }

  ReceiveQueue& queue_;
  Capture& capture_;
  std::span<const iovec> prepared_;
};

}  // namespace

CapturedFrame Capture::begin(std::size_t length) const {
  CapturedFrame frame{
      .at = std::chrono::system_clock::now(), .length = static_cast<std::uint32_t>(length), .bytes = {}};
  frame.bytes.reserve(std::min<std::size_t>(length, longest_));
  return frame;
}

CapturedFrame Capture::copy(const Frame& frame) const {
  CapturedFrame captured = begin(frame.length);
  auto& bytes = captured.bytes;
  // The header that was decided on, as in what is delivered; the rest is read from the buffers.
  const auto ethernet = std::as_bytes(std::span(&frame.ethernet, 1));
  bytes.assign(ethernet.begin(), ethernet.end());
  bytes.resize(std::min<std::size_t>(bytes.size(), longest_));
  std::size_t skip = frame.skip + sizeof frame.ethernet;
  for (const auto& segment : frame.segments) {
    const std::size_t here = segment.size() - std::min(skip, segment.size());
    const std::size_t count = std::min(here, std::min<std::size_t>(frame.length, longest_) - bytes.size());
    const std::size_t at = bytes.size();
    bytes.resize(at + count);
    if (count != 0) segment.read(skip, std::span(bytes).subspan(at));
    skip -= std::min(skip, segment.size());
  }
  return captured;
}

CapturedFrame Capture::copy(std::span<const std::byte> frame) const {
  CapturedFrame captured = begin(frame.size());
  const auto kept = frame.first(std::min<std::size_t>(frame.size(), longest_));
  captured.bytes.assign(kept.begin(), kept.end());
  return captured;
}

CapturedFrame Capture::copy(std::span<const iovec> buffers, std::size_t skip, std::size_t length) const {
  CapturedFrame captured = begin(length);
  auto& bytes = captured.bytes;
  for (const iovec& buffer : buffers) {
    const std::size_t here = buffer.iov_len - std::min(skip, buffer.iov_len);
    const std::size_t count = std::min(here, std::min<std::size_t>(length, longest_) - bytes.size());
    const std::size_t at = bytes.size();
    bytes.resize(at + count);
    const auto span = memory::GuestSpan::over({static_cast<std::byte*>(buffer.iov_base), buffer.iov_len});
    if (count != 0) span.read(skip, std::span(bytes).subspan(at));
    skip -= std::min(skip, buffer.iov_len);
  }
  return captured;
}

void Capture::keep(CapturedFrame frame) {
  const std::size_t cost = frame.bytes.size() + kOverhead;
  if (bytes_ + cost > kMostBytes) {
    ++batch_.lost;
    return;
  }
  bytes_ += cost;
  batch_.frames.push_back(std::move(frame));
}

Capture::Batch Capture::take() {
  bytes_ = 0;
  return std::exchange(batch_, {});
}

std::unique_ptr<TransmitQueue> captured(TransmitQueue& queue, Capture& capture) {
  return std::make_unique<CapturedTransmitQueue>(queue, capture);
}

std::unique_ptr<ReceiveQueue> captured(ReceiveQueue& queue, Capture& capture) {
  return std::make_unique<CapturedReceiveQueue>(queue, capture);
}

}  // namespace causeway::net

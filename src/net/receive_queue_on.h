// A receive queue on a ring of one layout; receive_queue.cpp chooses among them.
#pragma once

#include "net/receive_queue.h"
#include "net/transmit_queue.h"
#include "virtio/device_queue.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace causeway::net {

using memory::GuestSpan;

/// Walks over the writable segments of consecutive chains of a batch.
struct Cursor {
  const virtio::ChainBatch& batch;
  std::size_t chain;
  std::span<const GuestSpan> segments;
  std::size_t offset = 0;

  Cursor(const virtio::ChainBatch& from, std::size_t first)
      : batch(from), chain(first), segments(from.writable(from[first])) {}

  /// The rest of the segment at hand; there must be one.
  GuestSpan here() {
    while (segments.empty() || offset == segments.front().size()) {
      offset = 0;
      if (!segments.empty()) segments = segments.subspan(1);
      if (segments.empty()) segments = batch.writable(batch[++chain]);
    }
    return segments.front().subspan(offset, segments.front().size() - offset);
  }
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const GuestSpan room = here();
      const std::size_t count = std::min(room.size(), bytes.size());
      room.write(0, bytes.first(count));
      bytes = bytes.subspan(count);
      offset += count;
    }
  }
  void copy(GuestSpan from) {
    while (from.size() != 0) {
      const GuestSpan room = here();
      const std::size_t count = std::min(room.size(), from.size());
      room.copy_from(0, from.subspan(0, count));
      from = from.subspan(count, from.size() - count);
      offset += count;
    }
  }
};

/// The frame's bytes behind its Ethernet header, piece by piece.
template <class Visit>
void each_payload(const Frame& frame, Visit visit) {
  std::size_t skip = frame.skip + sizeof(EthernetHeader);
  for (const GuestSpan& segment : frame.segments) {
    if (skip >= segment.size()) {
      skip -= segment.size();
      continue;
    }
    visit(segment.subspan(skip, segment.size() - skip));
    skip = 0;
  }
}

/// The queue on a ring of one layout, with or without mergeable buffers: everything of its hot loop is known to the
/// compiler.
template <virtio::ExactDeviceRing Ring, bool kMergeable>
class ReceiveQueueOn final : public ReceiveQueue {
 public:
  ReceiveQueueOn(Ring ring, const vdpa::QueueSetup& setup, QueueCounters& counters)
      : ReceiveQueue(setup, counters), ring_(std::move(ring)), header_size_(net_header_size(setup.ring.features)) {
    ring_.disarm();
  }

  void deliver(std::span<const Frame> frames) override;
  bool deliver(const virtio::NetHeader& header, std::span<const std::byte> frame, HashResult hash) override;
  std::span<const iovec> prepare(std::uint32_t frame_bytes) override;
  bool commit(std::size_t bytes) override;
  void flush() override;
  std::size_t buffers() override { return next_ == batch_.size() && !refill() ? 0 : batch_.size() - next_; }
  bool arm() override { return ring_.arm() || next_ < batch_.size(); }
  void disarm() override { ring_.disarm(); }
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map) override;
  virtio::RingFault fault() const override { return ring_.fault(); }
  virtio::QueueState stop() override;

 private:
  void put_back();
  bool refill();
  std::size_t reserve(std::uint64_t bytes);
  std::size_t refuse_length();
  bool place_at_once(const Frame& frame);
  template <class Copy>
  bool place(std::span<const std::byte, kFrameStart> start, HashResult hash, std::uint32_t length, Copy copy);
  void use_chains(std::size_t count, std::uint64_t bytes);

  static constexpr std::uint16_t kAhead = 32;  // buffers taken from the ring at a time

  Ring ring_;
  std::uint32_t header_size_;
  virtio::ChainBatch batch_;  // buffers taken ahead
  std::size_t next_ = 0;      // the first of them not yet filled
  std::size_t reserved_ = 0;  // chains that `prepare` has handed out
  std::uint64_t room_ = 0;    // bytes in those
  std::vector<iovec> iovecs_;
  std::uint64_t packets_ = 0;  // delivered since the last flush
  std::uint64_t bytes_ = 0;
};

template <virtio::ExactDeviceRing Ring, bool kMergeable>
void ReceiveQueueOn<Ring, kMergeable>::put_back() {
  ring_.untake(batch_.chains().subspan(next_));
  batch_.clear();
  next_ = 0;
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
bool ReceiveQueueOn<Ring, kMergeable>::refill() {
  if (next_ == batch_.size()) {
    batch_.clear();
    next_ = 0;
  }
  const std::size_t before = batch_.size();
  ring_.take(batch_, kAhead);
  for (std::size_t i = before; i < batch_.size(); ++i) {
    if (batch_[i].writable_bytes < header_size_) {
      // No frame fits into it, and a driver that waits for it would wait for ever.
      put_back();
      ring_.set_fault(virtio::RingFault::chain_without_use);
      return false;
    }
    batch_.writable(batch_[i]).front().prefetch_for_write(0);
  }
  return batch_.size() > before;
}

/// How many chains, from `next_` on, hold `bytes`; 0 when the driver has not offered them (counted).
template <virtio::ExactDeviceRing Ring, bool kMergeable>
std::size_t ReceiveQueueOn<Ring, kMergeable>::reserve(std::uint64_t bytes) {
  if (next_ == batch_.size() && !refill()) {
    counters().dropped_no_buffer.add(1);
    return 0;
  }
  if (batch_[next_].writable_bytes >= bytes) [[likely]]
    return 1;
  if (!kMergeable) return refuse_length();
  std::uint64_t room = 0;
  bool put_back_once = false;
  for (std::size_t count = 1;; ++count) {
    if (next_ + count > batch_.size()) {
      if (batch_.is_full() && !put_back_once) {
        // The chains at hand lie at the end of the batch: take them again from its start.
        put_back();
        put_back_once = true;
        count = 0;
        room = 0;
        if (!refill()) return 0;
        continue;
      }
      if (batch_.is_full()) return refuse_length();
      if (!refill()) {
        counters().dropped_no_buffer.add(1);
        return 0;
      }
    }
    room += batch_[next_ + count - 1].writable_bytes;
    if (room >= bytes) return count;
  }
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
std::size_t ReceiveQueueOn<Ring, kMergeable>::refuse_length() {
  counters().dropped_too_long.add(1);
  return 0;
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
void ReceiveQueueOn<Ring, kMergeable>::use_chains(std::size_t count, std::uint64_t bytes) {
  for (std::size_t i = 0; i < count; ++i) {
    const virtio::Chain& chain = batch_[next_ + i];
    const std::uint64_t here = std::min(bytes, chain.writable_bytes);
    ring_.use(chain, static_cast<std::uint32_t>(here), batch_.writable(chain));
    bytes -= here;
  }
  next_ += count;
}

/// The usual case: a frame in one piece into one buffer in one piece. False when it is another.
template <virtio::ExactDeviceRing Ring, bool kMergeable>
bool ReceiveQueueOn<Ring, kMergeable>::place_at_once(const Frame& frame) {
  if (next_ == batch_.size() || frame.segments.size() != 1 || header_size_ != sizeof(virtio::NetHeader)) return false;
  const std::uint32_t total = std::uint32_t{sizeof(virtio::NetHeader)} + frame.length;
  const virtio::Chain& chain = batch_[next_];
  const auto writable = batch_.writable(chain);
  const GuestSpan room = writable.front();
  if (room.size() < total) return false;
  room.write(0, start_of(frame));
  const std::size_t payload = frame.length - sizeof(EthernetHeader);
  room.copy_from(kFrameStart, frame.segments.front().subspan(frame.skip + sizeof(EthernetHeader), payload));
  ring_.use(chain, total, writable);
  ++next_;
  ++packets_;
  bytes_ += frame.length;
  return true;
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
template <class Copy>
bool ReceiveQueueOn<Ring, kMergeable>::place(std::span<const std::byte, kFrameStart> start, HashResult hash,
                                             std::uint32_t length, Copy copy) {
  constexpr std::size_t kBuffers = offsetof(virtio::NetHeader, num_buffers);
  constexpr std::size_t kHeader = sizeof(virtio::NetHeader);
  const std::uint64_t total = std::uint64_t{header_size_} + length;
  const std::size_t count = reserve(total);
  if (count == 0) return false;
  const auto buffers = static_cast<std::uint16_t>(count);
  std::array<std::byte, kFrameStart> corrected;
  std::ranges::copy(start, corrected.begin());
  std::memcpy(corrected.data() + kBuffers, &buffers, sizeof buffers);
  Cursor cursor(batch_, next_);
  cursor.write(std::span(corrected).first(std::min<std::size_t>(header_size_, kHeader)));
  if (header_size_ > kHeader) {
    const virtio::NetHeaderHash reported = to_header(hash);
    cursor.write(std::as_bytes(std::span(&reported, 1)));
  }
  cursor.write(std::span(corrected).subspan(kHeader));
  copy(cursor);
  use_chains(count, total);
  ++packets_;
  bytes_ += length;
  return true;
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
void ReceiveQueueOn<Ring, kMergeable>::deliver(std::span<const Frame> frames) {
  for (const Frame& frame : frames) {
    if (next_ == batch_.size()) refill();
    if (place_at_once(frame)) continue;
    place(start_of(frame), frame.hash, frame.length,
          [&](Cursor& cursor) { each_payload(frame, [&](GuestSpan piece) { cursor.copy(piece); }); });
  }
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
bool ReceiveQueueOn<Ring, kMergeable>::deliver(const virtio::NetHeader& header, std::span<const std::byte> frame,
                                               HashResult hash) {
  Frame start;
  start.header = header;
  std::memcpy(&start.ethernet, frame.data(), sizeof start.ethernet);
  return place(start_of(std::as_const(start)), hash, static_cast<std::uint32_t>(frame.size()),
               [&](Cursor& cursor) { cursor.write(frame.subspan(sizeof start.ethernet)); });
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
std::span<const iovec> ReceiveQueueOn<Ring, kMergeable>::prepare(std::uint32_t frame_bytes) {
  const std::uint64_t wanted = std::uint64_t{header_size_} + frame_bytes;
  iovecs_.clear();
  room_ = 0;
  reserved_ = 0;
  if (batch_.is_full() || next_ == batch_.size()) put_back();
  while (room_ < wanted && (kMergeable || reserved_ == 0)) {
    if (next_ + reserved_ == batch_.size() && (batch_.is_full() || !refill())) break;
    const virtio::Chain& chain = batch_[next_ + reserved_++];
    room_ += chain.writable_bytes;
    for (const GuestSpan& segment : batch_.writable(chain)) iovecs_.push_back(segment.to_iovec());
  }
  return iovecs_;
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
bool ReceiveQueueOn<Ring, kMergeable>::commit(std::size_t bytes) {
  if (bytes <= header_size_) return true;
  if (bytes > room_) {
    counters().dropped_too_long.add(1);
    return false;
  }
  std::size_t count = 0;
  for (std::uint64_t room = 0; room < bytes; ++count) room += batch_[next_ + count].writable_bytes;
  if (header_size_ >= sizeof(virtio::NetHeader)) {
    const auto buffers = static_cast<std::uint16_t>(count);
    Cursor cursor(batch_, next_);
    constexpr std::size_t kOffset = offsetof(virtio::NetHeader, num_buffers);
    for (std::size_t skip = kOffset; skip != 0;) {
      const std::size_t step = std::min(skip, cursor.here().size());
      cursor.offset += step;
      skip -= step;
    }
    cursor.write(std::as_bytes(std::span(&buffers, 1)));
  }
  use_chains(count, bytes);
  ++packets_;
  bytes_ += bytes - header_size_;
  return true;
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
void ReceiveQueueOn<Ring, kMergeable>::flush() {
  if (packets_ == 0) return;
  counters().packets.add(packets_);
  counters().bytes.add(bytes_);
  packets_ = 0;
  bytes_ = 0;
  if (ring_.publish()) call_driver();
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
Result<void> ReceiveQueueOn<Ring, kMergeable>::replace_map(std::shared_ptr<const memory::MemoryMap> map) {
  // Buffers taken ahead were translated by the old map.
  put_back();
  return ring_.replace_map(std::move(map));
}

template <virtio::ExactDeviceRing Ring, bool kMergeable>
virtio::QueueState ReceiveQueueOn<Ring, kMergeable>::stop() {
  flush();
  put_back();
  return ring_.state();
}

}  // namespace causeway::net

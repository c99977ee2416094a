#include "net/receive_queue.h"

#include "net/transmit_queue.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace causeway::net {

using memory::GuestSpan;

/// Walks over the writable segments of consecutive chains of a batch.
struct ReceiveQueue::Cursor {
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

namespace {

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

}  // namespace

Result<std::unique_ptr<ReceiveQueue>> ReceiveQueue::start(const vdpa::QueueSetup& setup,
                                                          std::shared_ptr<const memory::MemoryMap> map,
                                                          QueueCounters& counters) {
  CW_TRY(auto ring, virtio::SplitDeviceQueue::start(setup.ring, std::move(map)));
  ring.disarm();
  return std::unique_ptr<ReceiveQueue>(new ReceiveQueue(std::move(ring), setup, counters));
}

ReceiveQueue::ReceiveQueue(virtio::SplitDeviceQueue ring, const vdpa::QueueSetup& setup, QueueCounters& counters)
    : ring_(std::move(ring)),
      call_(setup.call),
      features_(setup.ring.features),
      header_size_(net_header_size(features_)),
      mergeable_(features_.has(virtio::NetFeature::mrg_rxbuf)),
      counters_(&counters) {}

void ReceiveQueue::put_back() {
  ring_.untake(static_cast<std::uint16_t>(batch_.size() - next_));
  batch_.clear();
  next_ = 0;
}

bool ReceiveQueue::refill() {
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
std::size_t ReceiveQueue::reserve(std::uint64_t bytes) {
  if (next_ == batch_.size() && !refill()) {
    counters_->dropped_no_buffer.add(1);
    return 0;
  }
  if (batch_[next_].writable_bytes >= bytes) [[likely]]
    return 1;
  if (!mergeable_) return refuse_length();
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
        counters_->dropped_no_buffer.add(1);
        return 0;
      }
    }
    room += batch_[next_ + count - 1].writable_bytes;
    if (room >= bytes) return count;
  }
}

std::size_t ReceiveQueue::refuse_length() {
  counters_->dropped_too_long.add(1);
  return 0;
}

void ReceiveQueue::use_chains(std::size_t count, std::uint64_t bytes) {
  for (std::size_t i = 0; i < count; ++i) {
    const virtio::Chain& chain = batch_[next_ + i];
    const std::uint64_t here = std::min(bytes, chain.writable_bytes);
    ring_.use(chain.head, static_cast<std::uint32_t>(here));
    bytes -= here;
  }
  next_ += count;
}

template <class Copy>
bool ReceiveQueue::place(std::span<const std::byte, kFrameStart> start, std::uint32_t length, Copy copy) {
  constexpr std::size_t kBuffers = offsetof(virtio::NetHeader, num_buffers);
  const std::uint64_t total = std::uint64_t{header_size_} + length;
  const std::size_t count = reserve(total);
  if (count == 0) return false;
  const auto buffers = static_cast<std::uint16_t>(count);
  const auto room = batch_.writable(batch_[next_]).front();
  Cursor cursor(batch_, next_);
  if (room.size() >= start.size() && header_size_ == sizeof(virtio::NetHeader)) [[likely]] {
    room.write(0, start);
    room.put(kBuffers, buffers);
    cursor.offset = start.size();
  } else {
    std::array<std::byte, kFrameStart> corrected;
    std::ranges::copy(start, corrected.begin());
    std::memcpy(corrected.data() + kBuffers, &buffers, sizeof buffers);
    cursor.write(std::span(corrected).first(header_size_));
    cursor.write(std::span(corrected).subspan(sizeof(virtio::NetHeader)));
  }
  copy(cursor);
  use_chains(count, total);
  ++packets_;
  bytes_ += length;
  return true;
}

bool ReceiveQueue::deliver(const Frame& frame) {
  return place(start_of(frame), frame.length,
               [&](Cursor& cursor) { each_payload(frame, [&](GuestSpan piece) { cursor.copy(piece); }); });
}

bool ReceiveQueue::deliver(const virtio::NetHeader& header, std::span<const std::byte> frame) {
  Frame start;
  start.header = header;
  std::memcpy(&start.ethernet, frame.data(), sizeof start.ethernet);
  return place(start_of(std::as_const(start)), static_cast<std::uint32_t>(frame.size()),
               [&](Cursor& cursor) { cursor.write(frame.subspan(sizeof start.ethernet)); });
}

std::span<const iovec> ReceiveQueue::prepare(std::uint32_t frame_bytes) {
  const std::uint64_t wanted = std::uint64_t{header_size_} + frame_bytes;
  iovecs_.clear();
  room_ = 0;
  reserved_ = 0;
  if (batch_.is_full() || next_ == batch_.size()) put_back();
  while (room_ < wanted && (mergeable_ || reserved_ == 0)) {
    if (next_ + reserved_ == batch_.size() && (batch_.is_full() || !refill())) break;
    const virtio::Chain& chain = batch_[next_ + reserved_++];
    room_ += chain.writable_bytes;
    for (const GuestSpan& segment : batch_.writable(chain)) iovecs_.push_back(segment.to_iovec());
  }
  return iovecs_;
}

bool ReceiveQueue::commit(std::size_t bytes) {
  if (bytes <= header_size_) return true;
  if (bytes > room_) {
    counters_->dropped_too_long.add(1);
    return false;
  }
  std::size_t count = 0;
  for (std::uint64_t room = 0; room < bytes; ++count) room += batch_[next_ + count].writable_bytes;
  if (header_size_ == sizeof(virtio::NetHeader)) {
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

void ReceiveQueue::flush() {
  if (packets_ == 0) return;
  counters_->packets.add(packets_);
  counters_->bytes.add(bytes_);
  packets_ = 0;
  bytes_ = 0;
  if (ring_.publish() && call_) {
    call_->signal();
    counters_->calls.add(1);
  }
}

Result<void> ReceiveQueue::replace_map(std::shared_ptr<const memory::MemoryMap> map) {
  // Buffers taken ahead were translated by the old map.
  put_back();
  return ring_.replace_map(std::move(map));
}

virtio::QueueState ReceiveQueue::stop() {
  flush();
  put_back();
  return ring_.state();
}

}  // namespace causeway::net

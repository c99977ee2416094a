// Copies of the frames that pass a link's queues. Nothing of it is on the path of a link that captures nothing: a queue
// is captured by another queue that stands before it.
#pragma once

#include "net/receive_queue.h"
#include "net/transmit_queue.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace causeway::net {

/// Value type.
struct CapturedFrame {
  std::chrono::system_clock::time_point at;
  std::uint32_t length = 0;      ///< of the frame, Ethernet header included
  std::vector<std::byte> bytes;  ///< its beginning, no more than was asked for
};

/// Frames that wait to be fetched: no more than kMostBytes of them, and further ones are counted and lost. Thread: the
/// worker's alone.
class Capture {
 public:
  static constexpr std::size_t kMostBytes = std::size_t{16} << 20;

  /// `longest`: bytes kept of each frame.
  explicit Capture(std::uint32_t longest) : longest_(longest) {}

  /// The frame's beginning, read from its sender's buffers; `keep` takes it in.
  CapturedFrame copy(const Frame& frame) const;
  CapturedFrame copy(std::span<const std::byte> frame) const;
  /// Of a frame behind `skip` bytes in buffers that the kernel has written.
  CapturedFrame copy(std::span<const iovec> buffers, std::size_t skip, std::size_t bytes) const;
  void keep(CapturedFrame frame);

  struct Batch {
    std::vector<CapturedFrame> frames;
    std::uint64_t lost = 0;  ///< since the last batch
  };
  Batch take();

 private:
  /// What a frame costs beside its bytes.
  static constexpr std::size_t kOverhead = 64;
  CapturedFrame begin(std::size_t length) const;

  std::uint32_t longest_;
  Batch batch_;
  std::size_t bytes_ = 0;
};

/// A queue that does what `queue` does, and copies what passes. Both `queue` and `capture` must outlive it.
std::unique_ptr<TransmitQueue> captured(TransmitQueue& queue, Capture& capture);
std::unique_ptr<ReceiveQueue> captured(ReceiveQueue& queue, Capture& capture);

}  // namespace causeway::net

// Connections for benchmarks: a port that answers itself, swallows everything, or sends without end.
#pragma once

#include "net/link.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace causeway::net {

/// What a Reflector does with its queue pairs.
enum class Reflection : std::uint8_t {
  reflect,  ///< sends every frame back on the same pair, its MAC addresses swapped
  sink,     ///< copies every frame into memory of ours and drops it
  source,   ///< fills the driver's receive buffers with frames of one size
};

/// A link that is connected to nothing but itself. Thread: as Link and Task.
class Reflector final : public Link, public Task {
 public:
  /// `frame_bytes`: of the frames that a source sends, 60 to 1518.
  Reflector(Worker& worker, std::string name, Reflection reflection, std::uint32_t frame_bytes = 60);
  ~Reflector() override;

  virtio::FeatureSet unsupported() const override { return {virtio::NetFeature::rss, virtio::NetFeature::hash_report}; }
  void inject(std::span<const std::byte> /*frame*/) override {}
  std::uint32_t poll() override;
  bool arm() override;
  void disarm() override;

 private:
  std::uint32_t reflect(Pair& pair);
  static void send_back(std::span<Frame> frames, TransmitQueue& from, ReceiveQueue& to);
  std::uint32_t sink(TransmitQueue& queue);
  std::uint32_t source(ReceiveQueue& queue);

  Reflection reflection_;
  std::vector<std::byte> pattern_;  // what a source sends
  memory::GuestSpan segment_;       // the same, as frames name it
  std::vector<Frame> frames_;       // a batch of it
  std::vector<std::byte> swallowed_;
};

}  // namespace causeway::net

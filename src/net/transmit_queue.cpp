#include "net/transmit_queue.h"

#include "base/cycles.h"
#include "net/offload.h"
#include "virtio/device_queue.h"

#include <algorithm>
#include <array>

namespace causeway::net {
namespace {

using memory::GuestSpan;

/// Reads bytes that lie over several segments.
void gather(std::span<const GuestSpan> segments, std::size_t skip, std::span<std::byte> to) {
  for (const GuestSpan& segment : segments) {
    if (skip >= segment.size()) {
      skip -= segment.size();
      continue;
    }
    const std::size_t count = std::min(segment.size() - skip, to.size());
    segment.read(skip, to.first(count));
    to = to.subspan(count);
    skip = 0;
    if (to.empty()) return;
  }
}

/// The queue on a ring of one layout: everything of its hot loop is known to the compiler.
template <virtio::DeviceRing Ring>
class TransmitQueueOn final : public TransmitQueue {
 public:
  TransmitQueueOn(Ring ring, const vdpa::QueueSetup& setup, QueueCounters& counters, OnMiss on_miss)
      : TransmitQueue(setup, counters),
        ring_(std::move(ring)),
        on_miss_(std::move(on_miss)),
        features_(setup.ring.features),
        header_size_(net_header_size(features_)) {
    ring_.disarm();
  }

  bool has_work() override { return read_cycles() >= next_look_ && ring_.has_available(); }
  std::span<Frame> take() override;
  void complete(std::size_t count) override;
  bool arm() override { return ring_.arm(); }
  void disarm() override { ring_.disarm(); }
  bool is_waiting() const override {
    if constexpr (virtio::TranslatesRing<Ring>) return ring_.is_waiting();
    return false;
  }
  std::uint64_t renewals() const override {
    if constexpr (virtio::TranslatesRing<Ring>) return ring_.renewals();
    return 0;
  }
  Result<void> replace_map(std::shared_ptr<const memory::MemoryMap> map) override {
    return ring_.replace_map(std::move(map));
  }
  virtio::RingFault fault() const override { return ring_.fault(); }
  virtio::QueueState state() const override { return ring_.state(); }

 private:
  void describe(const virtio::Chain& chain, Frame& frame) const;

  Ring ring_;
  OnMiss on_miss_;
  virtio::FeatureSet features_;
  std::uint32_t header_size_;
  // A short batch means that the driver is the slower side: each look at the ring then takes the cache line away that
  // it is about to write. Waiting, for two thirds of a microsecond or so, leaves it to fill a batch.
  static constexpr std::uint64_t kPause = 1500;

  std::uint64_t next_look_ = 0;  // cycles
  virtio::ChainBatch batch_;
  std::array<Frame, kBatch> frames_;
};

template <virtio::DeviceRing Ring>
std::span<Frame> TransmitQueueOn<Ring>::take() {
  batch_.clear();
  const std::uint16_t count = ring_.take(batch_, kBatch);
  if constexpr (virtio::TranslatesRing<Ring>) {
    counters().translated.add(batch_.segment_count());
    if (auto misses = ring_.take_misses(); !misses.empty()) on_miss_(std::move(misses), ring_.renewals());
  }
  // The payloads are on their way into the cache while the first headers are looked at.
  for (const virtio::Chain& chain : batch_.chains()) {
    if (chain.readable != 0) batch_.readable(chain).front().prefetch(0);
  }
  for (std::uint16_t i = 0; i < count; ++i) describe(batch_[i], frames_[i]);
  if (count < kBatch) next_look_ = read_cycles() + kPause;
  return {frames_.data(), count};
}

template <virtio::DeviceRing Ring>
void TransmitQueueOn<Ring>::describe(const virtio::Chain& chain, Frame& frame) const {
  frame.length = 0;
  frame.has_bad_header = false;
  auto segments = batch_.readable(chain);
  const std::uint64_t least = header_size_ + sizeof(EthernetHeader);
  if (chain.readable_bytes < least || chain.readable_bytes > header_size_ + std::uint64_t{kMaxFrame}) return;

  // Straight into the frame: a copy on the stack would be loaded again across its stores, which stalls.
  const auto start = start_of(frame);
  if (segments.front().size() >= kFrameStart && header_size_ == sizeof frame.header) [[likely]] {
    segments.front().read(0, start);
  } else {
    gather(segments, 0, start.first(std::min<std::size_t>(header_size_, sizeof frame.header)));
    gather(segments, header_size_, start.subspan<sizeof(virtio::NetHeader)>());
  }
  // As it is written to a receiver, if it needs no more.
  frame.header.num_buffers = 1;
  const auto length = static_cast<std::uint32_t>(chain.readable_bytes - header_size_);
  if (check_header(frame.header, length, features_) != HeaderFault::none) [[unlikely]] {
    frame.has_bad_header = true;
    return;
  }

  std::uint32_t skip = header_size_;
  while (skip >= segments.front().size()) {
    skip -= static_cast<std::uint32_t>(segments.front().size());
    segments = segments.subspan(1);
  }
  frame.length = length;
  frame.segments = segments;
  frame.skip = skip;
}

template <virtio::DeviceRing Ring>
void TransmitQueueOn<Ring>::complete(std::size_t count) {
  const auto done = batch_.chains().first(count);
  ring_.use_unwritten(done);
  ring_.untake(batch_.chains().subspan(count));
  if (count == 0) return;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < count; ++i) bytes += frames_[i].length;
  counters().packets.add(count);
  counters().bytes.add(bytes);
  if (ring_.publish()) call_driver();
}

}  // namespace

std::uint32_t net_header_size(virtio::FeatureSet features) {
  if (features.has(virtio::NetFeature::hash_report)) return virtio::kNetHeaderWithHashSize;
  const bool modern = features.has(virtio::Feature::version_1) || features.has(virtio::NetFeature::mrg_rxbuf);
  return modern ? sizeof(virtio::NetHeader) : virtio::kLegacyNetHeaderSize;
}

Result<std::unique_ptr<TransmitQueue>> TransmitQueue::start(const vdpa::QueueSetup& setup,
                                                            std::shared_ptr<const memory::MemoryMap> map,
                                                            QueueCounters& counters, OnMiss on_miss) {
  // It has nothing in its hands between two passes, so that no translation can go while it is used.
  return virtio::with_translated_device_ring<virtio::Extent::exact, false>(
      setup.ring, *map, [&]<class Ring>() -> Result<std::unique_ptr<TransmitQueue>> {
        CW_TRY(auto ring, Ring::start(setup.ring, std::move(map)));
        return std::make_unique<TransmitQueueOn<Ring>>(std::move(ring), setup, counters, std::move(on_miss));
      });
}

}  // namespace causeway::net

// A device queue over memory whose every byte is the fuzzer's: it must fault or serve, never touch anything else. With
// a log it marks what it uses before that can be seen; behind an IOMMU it waits for what is not known, and knows what
// of it is taken.

#include "memory/iotlb.h"
#include "virtio/device_queue.h"

#include <cstdlib>
#include <memory>
#include <optional>

#include "support/guest_memory.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace causeway;
using testing::GuestMemory, testing::value_or_die;
using virtio::Chain, virtio::ChainBatch, virtio::DeviceQueue;

constexpr std::uint64_t kRegion = 8192;
constexpr std::uint64_t kPage = memory::DirtyLog::kPage;
constexpr std::uint64_t kLogBytes = (GuestMemory::kBase + 2 * kRegion) / kPage / 8 + 1;

void require(bool condition) {
  if (!condition) std::abort();
}

/// What of a ring's world is the fuzzer's choice: the first bytes of the input.
struct Shape {
  virtio::FeatureSet features;
  std::uint32_t entries;
  std::uint16_t start;
  bool logs;
  bool is_translated;

  explicit Shape(std::span<const std::uint8_t> bytes)
      : start(static_cast<std::uint16_t>(bytes[2] | bytes[3] << 8)),
        logs((bytes[0] & 16) != 0),
        is_translated((bytes[0] & 32) != 0) {
    using enum virtio::Feature;
    if ((bytes[0] & 1) != 0) features = features.with(indirect_desc);
    if ((bytes[0] & 2) != 0) features = features.with(event_idx);
    if ((bytes[0] & 4) != 0) features = features.with(ring_packed);
    if ((bytes[0] & 8) != 0) features = features.with(in_order);
    entries = is_packed() ? 1U + bytes[1] % 128 : 1U << (bytes[1] % 8);
  }
  bool is_packed() const { return features.has(virtio::Feature::ring_packed); }
};

class World {
 public:
  World(const Shape& shape, std::span<const std::uint8_t> bytes)
      : shape_(shape), ring_(memory_.make_ring(shape.entries, shape.features)) {
    ring_.start.avail = shape.start;
    if (shape.is_packed()) ring_.start.used = shape.start;
    // Ring areas first; the second region begins where the first ends.
    for (std::uint64_t region = 0; region < 2 && !bytes.empty(); ++region) {
      const std::size_t count = std::min<std::size_t>(kRegion, bytes.size());
      memory_.at(memory::Iova(GuestMemory::kBase + region * kRegion), kRegion)
          .write(0, std::as_bytes(bytes.first(count)));
      bytes = bytes.subspan(count);
    }
    if (shape.logs) ring_.log = value_or_die(memory::DirtyLog::map(log_file_, 0, kLogBytes));
    std::vector<memory::Miss> misses;
    if (shape.is_translated && virtio::RingAreas::list_missing(ring_, *map(), misses)) learn(misses);
  }

  bool start() {
    auto started = DeviceQueue::start(ring_, map(), virtio::Remember::in_flight);
    if (!started) return false;
    queue_.emplace(std::move(*started));
    return true;
  }

  void run() {
    for (int pass = 0; pass < 6; ++pass) {
      batch_.clear();
      require(queue_->take(batch_, 32) == batch_.size());
      for (const Chain& chain : batch_.chains()) check(chain);
      const auto misses = queue_->take_misses();
      require(misses.empty() != queue_->is_waiting());
      if (queue_->is_waiting()) require(!queue_->has_available() && !queue_->arm());
      if (pass == 1) {
        // Another engine goes on with what this one holds.
        ring_.start = queue_->state(batch_.chains());
        start();
      } else if (pass == 2) {
        queue_->untake(batch_.chains());
      } else {
        use_all();
      }
      learn(misses);
      if (shape_.is_translated) require(queue_->replace_map(map()).has_value());
    }
  }

 private:
  std::shared_ptr<const memory::MemoryMap> map() const {
    return shape_.is_translated ? iotlb_.map(memory_.map()) : memory_.map();
  }
  /// The driver's addresses are the guest's; of the second region's pages the last may be read only.
  void learn(std::span<const memory::Miss> misses) {
    for (const memory::Miss& miss : misses) {
      const bool is_last = miss.at.value() == GuestMemory::kBase + 2 * kRegion - kPage;
      const std::uint64_t offset = miss.at.value() - GuestMemory::kBase;
      // What leads nowhere is refused, and stays missing.
      const auto updated = iotlb_.update({.iova = miss.at,
                                          .size = kPage,
                                          .frontend_va = memory::FrontendVa(GuestMemory::kFrontendBase + offset),
                                          .access = is_last ? memory::Access::read : memory::Access::read_write},
                                         *memory_.map());
      require(updated.has_value() == (offset < 2 * kRegion));
    }
  }

  void check(const Chain& chain) const {
    std::uint64_t readable = 0;
    for (const auto& segment : batch_.readable(chain)) {
      readable += segment.size();
      std::byte sum{};
      for (std::size_t at = 0; at < segment.size(); at += 64) sum ^= segment.fetch<std::byte>(at);
      require(segment.size() <= 2 * kRegion);
    }
    require(readable == chain.readable_bytes);
    if (!shape_.is_translated || queue_->fault() != virtio::RingFault::none) return;
    for (const memory::Iova at : batch_.addresses(chain)) require(queue_->holds({.first = at, .size = 1}));
  }

  void use_all() {
    for (const Chain& chain : batch_.chains()) queue_->use(chain, static_cast<std::uint32_t>(chain.writable_bytes));
    queue_->publish();
    if (shape_.logs && queue_->fault() == virtio::RingFault::none) check_marks();
    queue_->arm();
    queue_->disarm();
  }
  void check_marks() const {
    memory::Translator memory(memory_.map());
    const auto bits = memory::GuestSpan::over({log_->data(), log_->size()});
    for (const Chain& chain : batch_.chains()) {
      for (const auto& segment : batch_.writable(chain)) {
        const std::uint64_t page = memory.iova_of(segment)->value() / kPage;
        require(((bits.fetch<std::uint8_t>(page / 8) >> (page % 8)) & 1) != 0);
      }
    }
  }

  Shape shape_;
  GuestMemory memory_{kRegion, 2};
  OwnedFd log_file_ = value_or_die(make_memfd("log", kLogBytes));
  std::shared_ptr<const Mapping> log_ = value_or_die(Mapping::map(log_file_, 0, kLogBytes));
  memory::Iotlb iotlb_;
  virtio::RingConfig ring_;
  std::optional<DeviceQueue> queue_;
  ChainBatch batch_;
};

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(data, size);
  if (size < 4) return 0;
  World world(Shape(bytes.first(4)), bytes.subspan(4));
  if (world.start()) world.run();
  return 0;
}

#include "burst_load.h"

#include "base/loop.h"
#include "base/worker.h"
#include "virtio/blk.h"
#include "virtio/driver_queue.h"
#include "virtio/net.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "burst_port.h"
#include "front_end_log.h"
#include "support/driver_side.h"
#include "support/guest_memory.h"

namespace causeway::bench {
namespace {

using memory::Iova;
using std::chrono::duration, std::chrono::steady_clock;
using testing::GuestMemory, testing::value_or_die;
using virtio::DriverBuffer;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kRingRoom = 1 << 20;
constexpr std::uint32_t kFrameSlot = 2048;
constexpr std::uint8_t kUnwritten = 0xee;
constexpr double kWarmUp = 0.02;  // seconds
constexpr auto kPatience = std::chrono::seconds(3);
/// Of those of which the best is told; and how often the log's bits are taken, sooner than any front-end does it.
constexpr auto kPiece = std::chrono::milliseconds(2);
constexpr std::uint64_t kPieceBursts = 16;

void require(const Result<void>& result) {
  if (!result) throw std::runtime_error(result.error().text());
}

constexpr std::uint64_t page_up(std::uint64_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

double per_second(std::uint64_t count, steady_clock::duration time) {
  return static_cast<double>(count) / duration<double>(time).count();
}

/// What one packet or request is in memory: a frame's buffer; or a request's data, and on a page behind it its header
/// and its status.
struct Slot {
  explicit Slot(const BurstConfig& config)
      : bytes(is_disk(config.work) ? page_up(config.bytes) + kPage : kFrameSlot),
        data(is_disk(config.work) ? config.bytes : kFrameSlot),
        header(page_up(config.bytes)),
        status(header + sizeof(virtio::BlkRequestHeader)) {}
  std::uint64_t bytes;
  std::uint32_t data;
  std::uint64_t header;
  std::uint64_t status;
};

template <virtio::DriverRing Ring>
class Load final : public BurstLoad {
 public:
  explicit Load(const BurstConfig& config)
      : config_(config),
        slot_(config),
        burst_bytes_(page_up(config.burst * slot_.bytes)),
        entries_(std::bit_ceil(std::max(config.ring, 2 * config.burst * descriptors()))),
        bursts_(entries_ / (config.burst * descriptors())),
        memory_(kRingRoom + bursts_.size() * burst_bytes_),
        worker_(value_or_die(Worker::start({.name = "bench", .polling = Polling::poll, .cpu = config.device_cpu}))),
        port_(make_port(loop_, *worker_, config)),
        iommu_(*port_, config.mappings),
        kick_(value_or_die(KickFd::make())),
        call_(value_or_die(CallFd::make())) {
    worker_->rest(true);
    begin();
  }

  Rates rate(double seconds) override {
    wipe();
    if (log_) log_->forget();
    worker_->rest(false);
    is_filling_ = true;
    for (Burst& burst : bursts_) offer(burst);
    run(std::min(seconds, kWarmUp));
    const Rates rates = run(seconds);
    is_filling_ = false;
    while (ring_->in_flight() != 0) pass();
    worker_->rest(true);
    check();
    return rates;
  }

 private:
  struct Burst {
    Iova memory;
    Iova at;  ///< the driver's address, while it is mapped
    std::uint32_t unused = 0;
  };

  std::uint32_t descriptors() const { return is_disk(config_.work) ? 3 : 1; }
  Iova slot_of(const Burst& burst, std::uint32_t number) const {
    return Iova(burst.memory.value() + number * slot_.bytes);
  }
  /// Where the Device has written once it is done.
  std::uint64_t mark_offset() const { return is_disk(config_.work) ? slot_.status : sizeof(virtio::NetHeader); }

  void begin() {
    const auto config = place();
    written_ring_ = config_.packed ? config.descriptors : config.used;
    ring_.emplace(value_or_die(Ring::start(config, memory_.map())));
    ring_->disarm();
    require(testing::negotiate(*port_, config.features, *memory_.map()));
    const memory::Region& all = memory_.map()->regions().front();
    if (config_.logs) {
      log_.emplace(all);
      require(port_->set_log(log_->share()));
    }
    const vdpa::QueueIndex queue{static_cast<std::uint16_t>(config_.work == Work::transmit ? 1 : 0)};
    require(port_->set_queue_size(queue, config.size.entries()));
    require(port_->set_queue_addresses(queue, {.kind = port::RingAddressKind::guest,
                                               .descriptors = iommu_.at_for_ever(config.descriptors).value(),
                                               .available = iommu_.at_for_ever(config.available).value(),
                                               .used = iommu_.at_for_ever(config.used).value()}));
    require(port_->set_queue_call(queue, call_));
    require(port_->start_queue(queue, kick_));
    const bool is_all = config_.mappings == Mappings::passthrough;
    iommu_.tell_for_ever({.first = all.iova, .size = is_all ? all.size : kRingRoom});
    require(port_->enable_queue(queue, true));
    using vdpa::Status;
    require(port_->set_status(Status::acknowledge | Status::driver | Status::features_ok | Status::driver_ok));
  }

  /// The ring, in the guest's addresses; and the bursts behind it.
  virtio::RingConfig place() {
    virtio::FeatureSet features{virtio::Feature::version_1};
    if (config_.packed) features = features.with(virtio::Feature::ring_packed);
    if (config_.mappings != Mappings::none) features = features.with(virtio::Feature::access_platform);
    for (std::size_t i = 0; i < bursts_.size(); ++i) {
      bursts_[i].memory = Iova(GuestMemory::kBase + kRingRoom + i * burst_bytes_);
    }
    return memory_.make_ring(entries_, features);
  }

  void wipe() {
    for (std::size_t i = 0; i < bursts_.size(); ++i) {
      for (std::uint32_t number = 0; number < config_.burst; ++number) {
        const auto slot = memory_.at(slot_of(bursts_[i], number), slot_.bytes);
        slot.put(mark_offset(), kUnwritten);
        if (!is_disk(config_.work)) continue;
        const auto type = config_.work == Work::read ? virtio::BlkRequestType::in : virtio::BlkRequestType::out;
        const std::uint64_t at = (i * config_.burst + number) * config_.bytes % kDiskBytes;
        slot.put(slot_.header,
                 virtio::BlkRequestHeader{
                     .type = static_cast<std::uint32_t>(type), .reserved = 0, .sector = at / virtio::kSectorSize});
      }
    }
  }

  void offer(Burst& burst) {
    burst.at = iommu_.map({.first = burst.memory, .size = burst_bytes_});
    burst.unused = config_.burst;
    const auto first = static_cast<std::uint64_t>(&burst - bursts_.data()) * config_.burst;
    for (std::uint32_t number = 0; number < config_.burst; ++number) {
      const auto in_slot = [&](std::uint64_t offset) { return Iova(burst.at.value() + number * slot_.bytes + offset); };
      if (!(is_disk(config_.work) ? add_request(in_slot, first + number) : add_frame(in_slot, first + number))) {
        throw std::runtime_error("the ring has no room");
      }
    }
    if (ring_->publish()) kick_.signal();
  }
  bool add_frame(const auto& in_slot, std::uint64_t token) {
    const auto sent = static_cast<std::uint32_t>(sizeof(virtio::NetHeader)) + config_.bytes;
    const bool sends = config_.work == Work::transmit;
    const DriverBuffer frame{.address = in_slot(0), .length = sends ? sent : kFrameSlot};
    const std::span<const DriverBuffer> none;
    return sends ? ring_->add({&frame, 1}, none, token) : ring_->add(none, {&frame, 1}, token);
  }
  bool add_request(const auto& in_slot, std::uint64_t token) {
    const std::array<DriverBuffer, 3> parts{{{.address = in_slot(slot_.header), .length = 16},
                                             {.address = in_slot(0), .length = slot_.data},
                                             {.address = in_slot(slot_.status), .length = 1}}};
    const std::span<const DriverBuffer> all(parts);
    const std::size_t readable = config_.work == Work::read ? 1 : 2;
    return ring_->add(all.first(readable), all.subspan(readable), token);
  }

  Rates run(double seconds) {
    const auto begin = steady_clock::now();
    auto piece_begin = begin;
    std::uint64_t done = 0;
    std::uint64_t piece = 0;
    Rates rates{};
    for (;;) {
      for (int i = 0; i < 64; ++i) piece += pass();
      const auto now = steady_clock::now();
      // Bursts end as a whole: of a few alone it would be chance how many are counted.
      if (now - piece_begin >= kPiece && piece >= kPieceBursts * config_.burst) {
        rates.best = std::max(rates.best, per_second(piece, now - piece_begin));
        done += std::exchange(piece, 0);
        piece_begin = now;
        if (log_) log_->harvest();
      }
      if (duration<double>(now - begin).count() < seconds || done + piece == 0) continue;
      rates.mean = per_second(done + piece, now - begin);
      rates.best = std::max(rates.best, rates.mean);
      return rates;
    }
  }

  /// Takes back what is used; bursts of which that is all end, and are filled again. Returns how many chains were used.
  std::uint32_t pass() {
    std::uint32_t used = 0;
    while (const auto chain = ring_->reap()) {
      ++used;
      Burst& burst = bursts_[chain->token / config_.burst];
      if (--burst.unused != 0) continue;
      iommu_.unmap(burst.at);
      if (is_filling_) offer(burst);
      break;
    }
    if (used != 0) {
      idle_passes_ = 0;
      return used;
    }
    const bool asks = config_.mappings == Mappings::asked || config_.mappings == Mappings::asked_by_page;
    if (asks && loop_.run_ready()) iommu_.answer();
    if (++idle_passes_ % (1 << 12) == 0) look_whether_it_runs();
    return 0;
  }

  void look_whether_it_runs() {
    const auto now = steady_clock::now();
    if (idle_passes_ == 1 << 12) idle_since_ = now;
    while (loop_.run_ready()) continue;
    iommu_.answer();
    if (!ring_->is_broken() && now - idle_since_ < kPatience) return;
    std::string queues;
    for (const auto& queue : port_->report().queues) {
      queues +=
          fmt::format("; queue {} {}{}{}{}", queue.index, port::name_of(queue.path), queue.started ? " started" : "",
                      queue.waits ? " waits" : "", queue.failed ? " failed" : "");
    }
    throw std::runtime_error(fmt::format("{} chains are not used{}", ring_->in_flight(), queues));
  }

  /// That what was measured is what should have been done.
  void check() {
    if (log_) {
      log_->harvest();
      if (!log_->has_seen(written_ring_)) throw std::runtime_error("the ring was written, and is not in the log");
    }
    for (const Burst& burst : bursts_) {
      for (std::uint32_t number = 0; number < config_.burst; ++number) {
        if (config_.work == Work::transmit) continue;
        const Iova slot = slot_of(burst, number);
        if (memory_.at(slot, slot_.bytes).template fetch<std::uint8_t>(mark_offset()) == kUnwritten) {
          throw std::runtime_error(fmt::format("the buffer at {} was used, and not written", slot));
        }
        const Iova written(slot.value() + (config_.work == Work::write ? slot_.status : 0));
        if (log_ && !log_->has_seen(written)) {
          throw std::runtime_error(fmt::format("the page of {} was written, and is not in the log", written));
        }
      }
    }
  }

  BurstConfig config_;
  Slot slot_;
  std::uint64_t burst_bytes_;
  std::uint32_t entries_;
  std::vector<Burst> bursts_;
  GuestMemory memory_;
  Loop loop_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<port::Port> port_;
  SoftwareIommu iommu_;
  KickFd kick_;
  CallFd call_;
  std::optional<FrontEndLog> log_;
  std::optional<Ring> ring_;
  Iova written_ring_;  // its part that the Device writes
  bool is_filling_ = false;
  std::uint64_t idle_passes_ = 0;
  steady_clock::time_point idle_since_;
};

}  // namespace

std::unique_ptr<BurstLoad> BurstLoad::make(const BurstConfig& config) {
  if (config.packed) return std::make_unique<Load<virtio::PackedDriverQueue>>(config);
  return std::make_unique<Load<virtio::SplitDriverQueue>>(config);
}

}  // namespace causeway::bench

#include "port/relay_queue.h"

#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"
#include "virtio/ring_marks.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <string_view>
#include <utility>
#include <vector>

namespace causeway::port {
namespace {

using virtio::Chain;
using virtio::DriverBuffer;
using virtio::RingFault;

/// By the Device's addresses, which are the log's too.
using Places = std::vector<memory::IovaRange>;

/// Marks what a queue has written. With no log there is one that has nothing to do, so that a relay which logs nothing
/// pays nothing. `ring`: what we write of it.
class NoMarks {
 public:
  static constexpr bool kTranslates = false;
  NoMarks(virtio::QueueSize /*size*/, const Places& /*ring*/, const std::shared_ptr<const memory::DirtyLog>& /*log*/) {}
  void take(std::uint16_t /*token*/, std::span<const DriverBuffer> /*writable*/) {}
  void use(std::uint16_t /*token*/) {}
  void before_publish() {}
  void ring() {}
};

class Marks {
 public:
  static constexpr bool kTranslates = false;
  Marks(virtio::QueueSize size, Places ring, std::shared_ptr<const memory::DirtyLog> log)
      : log_(std::move(log)), ring_(std::move(ring)) {
    writable_.resize(size.entries());
    this->ring();
  }
  void take(std::uint16_t token, std::span<const DriverBuffer> writable) {
    writable_[token].assign(writable.begin(), writable.end());
  }
  void use(std::uint16_t token) { used_.push_back(token); }
  /// All that the Device could write, whatever it says it has; in time for the driver's next look.
  void before_publish() {
    if (used_.empty()) return;
    memory::full_fence();
    for (const std::uint16_t token : used_) {
      for (const DriverBuffer& buffer : writable_[token]) log_->mark(buffer.address, buffer.length);
    }
    used_.clear();
  }
  void ring() { virtio::mark_ring(*log_, ring_); }

 private:
  std::shared_ptr<const memory::DirtyLog> log_;
  Places ring_;
  std::vector<std::vector<DriverBuffer>> writable_;  // by token
  std::vector<std::uint16_t> used_;                  // tokens, since the last publish
};

/// Behind an IOMMU: remembers besides at which of the driver's addresses the Device's buffers lie.
class TranslatedMarks {
 public:
  static constexpr bool kTranslates = true;
  TranslatedMarks(virtio::QueueSize size, const Places& ring, const std::shared_ptr<const memory::DirtyLog>& log)
      : held_(size.entries()) {
    if (log) marks_.emplace(size, ring, log);
  }
  void take(std::uint16_t token, std::span<const DriverBuffer> writable) {
    if (marks_) marks_->take(token, writable);
  }
  void hold(std::uint16_t token, std::span<const memory::GuestSpan> segments, std::span<const memory::Iova> addresses) {
    for (std::size_t i = 0; i < segments.size(); ++i) {
      held_[token].push_back({.first = addresses[i], .size = segments[i].size()});
    }
  }
  void use(std::uint16_t token) {
    held_[token].clear();
    if (marks_) marks_->use(token);
  }
  void before_publish() {
    if (marks_) marks_->before_publish();
  }
  void ring() {
    if (marks_) marks_->ring();
  }
  bool holds(const memory::IovaRange& range) const {
    return std::ranges::any_of(held_, [&](const auto& buffers) {
      return std::ranges::any_of(buffers, [&](const memory::IovaRange& held) { return held.overlaps(range); });
    });
  }

 private:
  std::optional<Marks> marks_;
  std::vector<std::vector<memory::IovaRange>> held_;  // by token
};

template <virtio::DeviceRing Guest, virtio::DriverRing Shadow, class Mark>
class RelayQueueOn final : public RelayQueue {
 public:
  RelayQueueOn(const vdpa::QueueSetup& guest, Guest ring, Shadow shadow, std::shared_ptr<const memory::MemoryMap> map,
               Mark marks, DeviceKick kick, Events events)
      : RelayQueue(guest.call, std::move(kick), std::move(events)),
        config_(guest.ring),
        guest_(std::move(ring)),
        shadow_(std::move(shadow)),
        translator_(std::move(map)),
        marks_(std::move(marks)),
        in_order_(guest.ring.features.has(virtio::Feature::in_order)),
        taken_(guest.ring.size.entries()),
        order_(guest.ring.size.entries()) {
    for (std::uint32_t token = guest.ring.size.entries(); token != 0; --token) {
      free_.push_back(static_cast<std::uint16_t>(token - 1));
    }
  }

  std::uint32_t poll() override {
    if (is_broken_) return 0;
    const std::uint32_t done = give_back(virtio::ChainBatch::kMaxChains);
    return is_broken_ ? done : done + pass_on();
  }
  bool arm() override {
    if (is_broken_) return false;
    const bool has_used = shadow_.arm();
    // What does not fit now will, once the Device has used something.
    // What waits for an address is there, and seen when the maps are replaced.
    const bool has_available = !is_full_ && current_wait() == 0 && guest_.arm();
    marks_.ring();
    return has_available || has_used;
  }
  void disarm() override {
    if (is_broken_) return;
    guest_.disarm();
    marks_.ring();
    shadow_.disarm();
  }

  Result<void> replace_maps(RelayMaps maps) override {
    CW_CHECK(guest_.replace_map(std::move(maps.driver)));
    translator_ = memory::Translator(std::move(maps.device));
    wait_.store(0, std::memory_order_release);
    return {};
  }
  bool uses(const memory::IovaRange& range) const override {
    if constexpr (!Mark::kTranslates) return false;
    if constexpr (Mark::kTranslates) return virtio::RingAreas::overlap(config_, range) || marks_.holds(range);
  }

  virtio::QueueState finish() override {
    if (!is_broken_) give_back(static_cast<std::uint32_t>(taken_.size()));
    std::vector<const Taken*> left;
    for (const Taken& taken : taken_) {
      if (taken.state != Taken::State::free) left.push_back(&taken);
    }
    std::ranges::sort(left, {}, &Taken::sequence);
    // The last ones taken are put back, as if nobody had looked at them; those before a used one cannot be.
    std::uint64_t next = sequence_;
    std::size_t kept = left.size();
    while (kept != 0 && left[kept - 1]->sequence + 1 == next) {
      --kept;
      --next;
    }
    std::vector<Chain> chains;
    chains.reserve(left.size());
    for (const Taken* taken : left) chains.push_back(taken->chain);
    guest_.untake(std::span<const Chain>(chains).subspan(kept));
    return guest_.state(std::span<const Chain>(chains).first(kept));
  }

 private:
  /// A chain of the guest's that has been taken; its place in `taken_` is the token that the shadow ring knows it by.
  struct Taken {
    enum class State : std::uint8_t { free, passed_on, done };
    Chain chain;
    std::uint64_t sequence = 0;  // in the order taken
    std::uint32_t written = 0;   // once it is done
    State state = State::free;
  };

  std::uint32_t give_back(std::uint32_t limit) {
    std::uint32_t count = 0;
    std::optional<virtio::UsedChain> refused;
    for (; count < limit; ++count) {
      const auto used = shadow_.reap();
      if (!used) break;
      if (used->written > taken_[used->token].chain.writable_bytes) [[unlikely]] {
        refused = used;
        break;
      }
      finish_one(static_cast<std::uint16_t>(used->token), used->written);
    }
    // Also when the Device broke its ring: what came before is good, and must not be taken again.
    if (in_order_) use_in_order();
    marks_.before_publish();
    const bool wants_call = guest_.publish();
    if (std::exchange(has_used_, false)) marks_.ring();
    if (wants_call && call_) call_->signal();
    if (count != 0) {
      is_full_ = false;
      relayed_.add(count);
    }
    if (refused || shadow_.is_broken()) [[unlikely]]
      break_down_for(refused);
    return count;
  }
  void break_down_for(const std::optional<virtio::UsedChain>& refused) {
    if (!refused) return break_down("the device returned a chain that it did not have");
    break_down(fmt::format("the device says it wrote {} bytes into a chain that has room for {}", refused->written,
                           taken_[refused->token].chain.writable_bytes));
  }

  void finish_one(std::uint16_t token, std::uint32_t written) {
    Taken& taken = taken_[token];
    if (in_order_) {
      taken.written = written;
      taken.state = Taken::State::done;
    } else {
      use(token, written);
    }
  }
  void use(std::uint16_t token, std::uint32_t written) {
    Taken& taken = taken_[token];
    marks_.use(token);
    has_used_ = true;
    guest_.use(taken.chain, written);
    guest_.unmark(taken.chain);
    taken.state = Taken::State::free;
    free_.push_back(token);
  }
  void use_in_order() {
    while (oldest_ != sequence_) {
      const std::uint16_t token = order_[oldest_ % order_.size()];
      if (taken_[token].state != Taken::State::done) return;
      use(token, taken_[token].written);
      ++oldest_;
    }
  }

  std::uint32_t pass_on() {
    if (is_full_) return 0;
    if constexpr (Mark::kTranslates) {
      if (current_wait() != 0) return 0;
    }
    batch_.clear();
    const auto limit = static_cast<std::uint16_t>(std::min(free_.size(), virtio::ChainBatch::kMaxChains));
    is_full_ = limit == 0;
    guest_.take(batch_, limit);
    if constexpr (Mark::kTranslates) await_misses();
    for (const Chain& chain : batch_.chains()) {
      if (chain.again == 0) guest_.mark(chain);  // what is taken again is in the record already
    }
    std::uint32_t count = 0;
    while (count < batch_.size() && !is_broken_ && add(batch_[count])) ++count;
    if (count < batch_.size() && !is_broken_) {
      guest_.untake(batch_.chains().subspan(count));
      is_full_ = true;
      if (count == 0 && shadow_.in_flight() == 0) break_down("a chain is too long for the device");
    }
    if (guest_.fault() != RingFault::none) [[unlikely]] {
      break_down(virtio::text(guest_.fault()));
    }
    // Also when the guest's ring broke: what came before is good.
    if (shadow_.publish()) kick_.signal();
    return count;
  }

  void await_misses() {
    translated_.add(batch_.segment_count());
    auto misses = guest_.take_misses();
    if (misses.empty()) return;
    missed_.add(misses.size());
    wait_.store(++waits_, std::memory_order_release);
    events_.on_miss({.number = waits_, .misses = std::move(misses)});
  }

  /// False: there is no room for it now.
  bool add(const Chain& chain) {
    buffers_.clear();
    if (!translate(batch_.readable(chain)) || !translate(batch_.writable(chain))) [[unlikely]] {
      break_down("a buffer lies where the device has no memory");
      return false;
    }
    const std::uint16_t token = free_.back();
    const std::span<const DriverBuffer> all(buffers_);
    if (!buffers_.empty() && !shadow_.add(all.first(chain.readable), all.subspan(chain.readable), token)) return false;
    free_.pop_back();
    marks_.take(token, all.subspan(chain.readable));
    if constexpr (Mark::kTranslates) marks_.hold(token, batch_.all(chain), batch_.addresses(chain));
    order_[sequence_ % order_.size()] = token;
    taken_[token] = {.chain = chain, .sequence = sequence_++, .written = 0, .state = Taken::State::passed_on};
    if (buffers_.empty()) finish_one(token, 0);  // it has no byte: there is nothing to tell the Device
    return true;
  }
  bool translate(std::span<const memory::GuestSpan> segments) {
    for (const memory::GuestSpan& segment : segments) {
      const auto at = translator_.iova_of(segment);
      if (!at) return false;
      buffers_.push_back({.address = *at, .length = static_cast<std::uint32_t>(segment.size())});
    }
    return true;
  }

  /// Of several faults in one pass the first counts.
  void break_down(std::string_view what) {
    if (std::exchange(is_broken_, true)) return;
    if (events_.on_fault) events_.on_fault({.code = Errc::peer_violation, .what = std::string(what)});
  }

  virtio::RingConfig config_;  // the guest's
  Guest guest_;
  Shadow shadow_;
  memory::Translator translator_;  // from our memory to the Device's addresses
  Mark marks_;
  bool in_order_;
  bool is_full_ = false;
  bool is_broken_ = false;
  std::uint64_t waits_ = 0;
  bool has_used_ = false;  // since the last publish
  virtio::ChainBatch batch_;
  std::vector<DriverBuffer> buffers_;
  std::vector<Taken> taken_;          // by token
  std::vector<std::uint16_t> free_;   // tokens
  std::vector<std::uint16_t> order_;  // tokens in the order taken; needed with IN_ORDER, where none can be overtaken
  std::uint64_t sequence_ = 0;        // of the next one taken
  std::uint64_t oldest_ = 0;          // with IN_ORDER: of those not used
};

template <class Guest, class Shadow>
Result<std::unique_ptr<RelayQueue>> start_on(const vdpa::QueueSetup& guest, RelayMaps maps, const ShadowRing& shadow,
                                             DeviceKick kick, RelayQueue::OnFault on_fault,
                                             RelayQueue::OnMiss on_miss) {
  CW_TRY(auto ring, Guest::start(guest.ring, maps.driver, virtio::Remember::in_flight));
  CW_TRY(auto own, Shadow::start(shadow.config, shadow.map, shadow.tables));
  CW_TRY(const auto places, virtio::written_areas(guest.ring, maps.driver));
  const auto make = [&]<class Mark>() -> std::unique_ptr<RelayQueue> {
    return std::make_unique<RelayQueueOn<Guest, Shadow, Mark>>(
        guest, std::move(ring), std::move(own), std::move(maps.device), Mark(guest.ring.size, places, guest.ring.log),
        std::move(kick), RelayQueue::Events{.on_fault = std::move(on_fault), .on_miss = std::move(on_miss)});
  };
  if (maps.driver->is_translated()) return make.template operator()<TranslatedMarks>();
  return guest.ring.log ? make.template operator()<Marks>() : make.template operator()<NoMarks>();
}

}  // namespace

void DeviceKick::signal() const {
  if (doorbell == nullptr) {
    event.signal();
    return;
  }
  memory::GuestSpan::over({doorbell->data(), doorbell->size()})
      .store(0, virtio::number(queue), std::memory_order_release);
}

Result<std::unique_ptr<RelayQueue>> RelayQueue::start(const vdpa::QueueSetup& guest, RelayMaps maps,
                                                      const ShadowRing& shadow, DeviceKick kick, OnFault on_fault,
                                                      OnMiss on_miss) {
  using virtio::PackedDeviceQueue, virtio::PackedDriverQueue, virtio::SplitDeviceQueue, virtio::SplitDriverQueue;
  const auto start =
      guest.ring.layout() == virtio::Layout::packed
          ? (shadow.config.layout() == virtio::Layout::packed ? start_on<PackedDeviceQueue, PackedDriverQueue>
                                                              : start_on<PackedDeviceQueue, SplitDriverQueue>)
          : (shadow.config.layout() == virtio::Layout::packed ? start_on<SplitDeviceQueue, PackedDriverQueue>
                                                              : start_on<SplitDeviceQueue, SplitDriverQueue>);
  return start(guest, std::move(maps), shadow, std::move(kick), std::move(on_fault), std::move(on_miss));
}

}  // namespace causeway::port

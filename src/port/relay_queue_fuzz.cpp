// A relay between a driver and a device, either of which may begin to lie at any step. To the one that does not, it
// keeps its promises: a driver gets back what it sent, once, with no more than it has room for, also from the devices
// that come after one that lied; a device finds a ring without faults, whose buffers are the guest's. After a fault
// neither ring is written. Input: features and layouts of both rings (1 byte), size, log, and whether the driver is
// behind an IOMMU, of which pieces are forgotten and told anew (1 byte), then steps.

#include "memory/iotlb.h"
#include "port/relay_queue.h"
#include "virtio/device_queue.h"
#include "virtio/driver_queue.h"

#include <algorithm>
#include <array>
#include <bit>
#include <deque>
#include <map>

#include "support/fuzz_input.h"
#include "support/guest_memory.h"
#include "support/ring_choice.h"
#include "support/ring_liar.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace causeway;
using port::RelayMaps, port::RelayQueue, port::ShadowRing;
using testing::FuzzInput, testing::GuestMemory, testing::require, testing::ring_entries, testing::ring_features;
using testing::value_or_die;
using virtio::Chain, virtio::ChainBatch, virtio::DeviceQueue, virtio::DriverBuffer, virtio::DriverQueue;
using virtio::Feature, virtio::FeatureSet;

constexpr memory::Iova kShadow(0x7f'0000'0000);
constexpr std::uint64_t kRegion = 32768;
constexpr std::uint64_t kMemory = 2 * kRegion;
constexpr std::uint64_t kPage = memory::MemoryMap::kIommuPage;
constexpr std::uint64_t kApart = 0x3'0000'0000;  // behind an IOMMU: between the guest's and the driver's addresses
constexpr std::uint32_t kParts = 12;
constexpr std::uint32_t kBuffer = 64;
constexpr unsigned kMostMoves = 8;  // each costs as much as some hundred other steps
constexpr std::uint64_t kLogBytes = (GuestMemory::kBase + 4 * kRegion) / memory::DirtyLog::kPage / 8;

/// What a driver has in flight: its parts that have bytes, in their order.
struct Sent {
  memory::Iova at;
  std::vector<DriverBuffer> parts;
  std::size_t readable = 0;
  std::uint64_t room = 0;
};

struct Held {
  Chain chain;
  std::optional<std::uint64_t> token;  ///< where the driver does not lie
  std::optional<memory::GuestSpan> answer;
};

class World {
 public:
  World(FuzzInput& input, std::uint8_t features, std::uint8_t shape)
      : input_(input),
        device_features_(ring_features(features >> 4)),
        apart_((shape & 0x40) != 0 ? kApart : 0),
        memory_(kRegion, 2),
        driver_map_(make_driver_map()),
        config_(place(memory_.make_ring(ring_entries(ring_features(features), shape & 0x1f), ring_features(features)))),
        driver_(make_driver()) {
    if ((shape & 0x80) != 0) {
      const OwnedFd file = value_or_die(make_memfd("log", kLogBytes));
      config_.log = value_or_die(memory::DirtyLog::map(file, 0, kLogBytes));
      log_bits_ = value_or_die(Mapping::map(file, 0, kLogBytes));
    }
    for (std::uint16_t i = 0; i < config_.size.entries(); ++i) free_.push_back(memory_.allocate(kParts * kBuffer));
    require(start(config_.start));
  }

  /// False: nothing is left to be done.
  bool step() {
    const std::uint8_t what = input_.byte();
    const unsigned detail = what >> 4;
    switch (what & 15) {
      case 0:
      case 1:
        send(detail);
        break;
      case 2:
      case 3:
        relay([this] { relay_->poll(); });
        break;
      case 4:
        relay([this, detail] { (detail & 1) != 0 ? static_cast<void>(relay_->arm()) : relay_->disarm(); });
        break;
      case 5:
      case 6:
        device_takes();
        break;
      case 7:
      case 8:
        device_uses(detail, input_.byte());
        break;
      case 9:
        driver_reaps();
        break;
      case 10:
        return moves_++ >= kMostMoves || move();
      case 11:
        return apart_ == 0 ? replace_map(detail) : translate(detail);
      case 12:
        lie_as_driver(detail);
        break;
      case 13:
        lie_of_a_buffer(detail);
        break;
      case 14:
        lie_as_device(detail);
        break;
      default:
        lie_of_a_use(detail);
    }
    return true;
  }

  /// An honest driver gets everything back, if need be from a new device.
  void settle() {
    if (driver_lies_) return;
    if (device_lies_) move();
    for (int i = 0; i < 200 && !sent_.empty(); ++i) {
      relay([this] { relay_->poll(); });
      if (wait_) answer(~std::size_t{0});
      device_takes();
      while (!held_.empty()) device_uses(0, 0);
      relay([this] { relay_->poll(); });
      driver_reaps();
    }
    require(sent_.empty());
  }

 private:
  DriverQueue make_driver() {
    const std::uint16_t entries = config_.size.entries();
    if (config_.features.has(Feature::indirect_desc))
      tables_.emplace(driver_address(memory_.allocate(virtio::indirect_bytes(entries))));
    return value_or_die(DriverQueue::start(config_, driver_map_, tables_));
  }

  memory::Iova driver_address(memory::Iova guest) const { return memory::Iova(guest.value() + apart_); }
  virtio::RingConfig place(virtio::RingConfig ring) const {
    for (memory::Iova* area : {&ring.descriptors, &ring.available, &ring.used}) *area = driver_address(*area);
    return ring;
  }
  memory::Iova guest_address(memory::Iova driver) const { return memory::Iova(driver.value() - apart_); }

  bool start(virtio::QueueState at) {
    config_.start = std::move(at);
    relay_.reset();
    held_.clear();
    wait_.reset();
    has_fault_ = device_lies_ = false;
    if (apart_ != 0) learn_ring();
    shadow_.emplace(value_or_die(ShadowRing::make("shadow", device_features_, config_.size.entries(), kShadow)));
    auto regions = memory_.map()->regions();
    regions.push_back(shadow_->region);
    device_.emplace(
        value_or_die(DeviceQueue::start(shadow_->config, value_or_die(memory::MemoryMap::make(std::move(regions))))));
    auto started = RelayQueue::start(
        {.ring = config_, .kick = {}, .call = {}}, maps(), *shadow_,
        {.event = value_or_die(KickFd::make()), .doorbell = {}, .queue = {}},
        [this](const Error&) {
          require(!std::exchange(has_fault_, true));
          require(driver_lies_ || device_lies_);
        },
        [this](RelayQueue::Wait wait) {
          require(apart_ != 0 && !wait_ && !wait.misses.empty());
          wait_ = std::move(wait);
        });
    require(started || driver_lies_);
    if (started) relay_ = std::move(*started);
    return relay_ != nullptr;
  }

  /// All that a relay writes, but for its indirect tables.
  std::vector<std::byte> rings() const {
    std::vector<std::byte> all;
    const auto append = [&](const memory::MemoryMap& map, const virtio::RingConfig& ring) {
      const auto sizes = virtio::RingAreaSizes::of(ring.layout(), ring.size);
      for (const auto& [at, bytes] :
           {std::pair(ring.descriptors, sizes.descriptors.bytes), std::pair(ring.available, sizes.available.bytes),
            std::pair(ring.used, sizes.used.bytes)}) {
        all.resize(all.size() + bytes);
        map.translate(at, bytes)->read(0, std::span(all).last(bytes));
      }
    };
    append(*driver_map_, config_);
    append(*shadow_->map, shadow_->config);
    return all;
  }
  template <class Work>
  void relay(Work work) {
    if (!has_fault_) return work();
    const auto before = rings();
    work();
    require(rings() == before);
  }

  // --- The driver ---------------------------------------------------------------------------------------------------

  void send(unsigned detail) {
    if (free_.empty()) return;
    constexpr std::array<std::uint32_t, 4> kLengths{kBuffer, 1, kBuffer - 1, 0};
    // What both rings hold, whether or not they have tables.
    const std::uint32_t longest = std::min<std::uint32_t>(std::bit_floor(config_.size.entries()), kParts);
    const std::uint32_t count = 1 + detail % longest;
    const std::uint8_t shape = input_.byte();
    const std::uint32_t readable = (shape & 15U) % (count + 1);
    Sent sent{.at = free_.front(), .parts = {}, .readable = 0, .room = 0};
    std::vector<DriverBuffer> parts;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t length = kLengths[((shape >> 4U) + i * (shape >> 6U)) % 4];
      parts.push_back({.address = memory::Iova(sent.at.value() + std::uint64_t{i} * kBuffer), .length = length});
      if (length == 0) continue;
      sent.parts.push_back(parts.back());
      if (i < readable) ++sent.readable;
      if (i >= readable) sent.room += length;
    }
    for (DriverBuffer& part : parts) part.address = driver_address(part.address);
    const std::span<const DriverBuffer> all(parts);
    if (!driver_.add(all.first(readable), all.subspan(readable), next_token_)) return;
    free_.pop_front();
    driver_.publish();
    sent_[next_token_++] = std::move(sent);
  }

  void driver_reaps() {
    bool has_any = false;
    while (const auto used = driver_.reap()) {
      has_any = true;
      const auto found = sent_.find(used->token);
      require(driver_lies_ || found != sent_.end());
      if (found == sent_.end()) continue;
      const Sent& sent = found->second;
      if (!driver_lies_) check_answer(sent, used->token, used->written);
      free_.push_back(sent.at);
      sent_.erase(found);
    }
    if (driver_lies_) return;
    require(!driver_.is_broken());
    if (!config_.log || !has_any) return;
    require(is_marked(guest_address(config_.layout() == virtio::Layout::packed ? config_.descriptors : config_.used)));
    // As a front-end does that copies the pages now.
    memory::GuestSpan::over({log_bits_->data(), log_bits_->size()})
        .write(GuestMemory::kBase / memory::DirtyLog::kPage / 8, std::array<std::byte, 2>{});
  }
  void check_answer(const Sent& sent, std::uint64_t token, std::uint32_t written) const {
    require(written <= sent.room);
    for (std::size_t i = sent.readable; config_.log && i < sent.parts.size(); ++i)
      require(is_marked(sent.parts[i].address));
    if (has_device_lied_) return;
    const auto answer = answers_.find(token);
    require(answer != answers_.end() || sent.parts.empty());
    if (answer == answers_.end()) return;
    // Of a batch with IN_ORDER nobody is told how much each has.
    require(written == answer->second || config_.features.has(Feature::in_order) ||
            device_features_.has(Feature::in_order));
    if (answer->second == 0) return;
    require(memory_.at(sent.parts[sent.readable].address, 1).fetch<std::uint8_t>(0) ==
            static_cast<std::uint8_t>(token));
  }
  bool is_marked(memory::Iova at) const {
    const std::uint64_t page = at.value() / memory::DirtyLog::kPage;
    const auto bits = memory::GuestSpan::over({log_bits_->data(), log_bits_->size()});
    return ((bits.fetch<std::uint8_t>(page / 8) >> (page % 8)) & 1) != 0;
  }

  void lie_as_driver(unsigned detail) {
    driver_lies_ = true;
    testing::RingLiar liar(input_, *driver_map_, config_, tables_);
    (detail & 4) != 0 ? liar.offer() : liar.poke(detail);
  }
  void lie_of_a_buffer(unsigned detail) {
    const std::array<std::uint64_t, 4> bases{GuestMemory::kBase + apart_, GuestMemory::kBase + apart_ + kRegion,
                                             kShadow.value(), 0ULL - kRegion};
    driver_lies_ = true;
    testing::RingLiar(input_, *driver_map_, config_, tables_)
        .write_descriptor((detail & 1) != 0, bases[(detail >> 1) & 3], (detail & 8) != 0 ? 16 : 0);
  }

  // --- The device ---------------------------------------------------------------------------------------------------

  void device_takes() {
    batch_.clear();
    device_->take(batch_, 8);
    require(device_lies_ || device_->fault() == virtio::RingFault::none);
    for (const Chain& chain : batch_.chains()) {
      Held held{.chain = chain, .token = {}, .answer = {}};
      if (!device_lies_) check_taken(held);
      held_.push_back(held);
    }
  }
  void check_taken(Held& held) {
    memory::Translator guest(memory_.map());
    std::vector<DriverBuffer> parts;
    for (const auto segments : {batch_.readable(held.chain), batch_.writable(held.chain)}) {
      for (const memory::GuestSpan& segment : segments) {
        require(segment.size() != 0);
        const auto at = guest.iova_of(segment);
        require(at.has_value());
        parts.push_back({.address = *at, .length = static_cast<std::uint32_t>(segment.size())});
      }
    }
    require(!parts.empty());
    if (held.chain.writable != 0) held.answer = batch_.writable(held.chain).front();
    if (driver_lies_) return;
    const auto same = [](const DriverBuffer& a, const DriverBuffer& b) {
      return a.address == b.address && a.length == b.length;
    };
    const auto sent = std::ranges::find_if(sent_, [&](const auto& each) {
      return std::ranges::equal(each.second.parts, parts, same) && each.second.readable == held.chain.readable;
    });
    require(sent != sent_.end());
    held.token = sent->first;
    // What a device has done no other one does again.
    require(has_device_lied_ || !answers_.contains(sent->first));
  }

  void device_uses(unsigned which, std::uint8_t written) {
    if (held_.empty()) return;
    if (device_features_.has(Feature::in_order)) which = 0;
    const auto at = held_.begin() + static_cast<std::ptrdiff_t>(which % held_.size());
    const Held held = *at;
    held_.erase(at);
    const auto bytes = static_cast<std::uint32_t>(std::min<std::uint64_t>(written, held.chain.writable_bytes));
    if (held.token) answers_[*held.token] = bytes;
    if (held.token && held.answer && bytes != 0) held.answer->put(0, static_cast<std::uint8_t>(*held.token));
    device_->use(held.chain, bytes);
    device_->publish();
  }

  void lie_as_device(unsigned detail) {
    device_lies_ = has_device_lied_ = true;
    testing::RingLiar liar(input_, *shadow_->map, shadow_->config, shadow_->tables);
    (detail & 4) != 0 ? liar.use() : liar.poke(detail);
  }
  /// Something like what it holds.
  void lie_of_a_use(unsigned detail) {
    device_lies_ = has_device_lied_ = true;
    Chain chain = held_.empty() ? Chain{} : held_[detail % held_.size()].chain;
    chain.id = static_cast<std::uint16_t>(chain.id + input_.byte());
    const std::uint32_t written = input_.word();
    device_->use(chain, (detail & 8) != 0 ? written << 16U : written);
    device_->publish();
  }

  // --- Around them --------------------------------------------------------------------------------------------------

  /// Another device goes on where the relay of the one before says.
  template <class Meanwhile>
  bool move(Meanwhile meanwhile) {
    // Behind something that is not done an ordered ring has no place for what is.
    while (config_.features.has(Feature::in_order) && !device_lies_ && !held_.empty()) device_uses(0, 1);
    virtio::QueueState at;
    relay([&] { at = relay_->finish(); });
    meanwhile();
    return start(std::move(at));
  }
  bool move() {
    return move([] {});
  }

  bool replace_map(unsigned detail) {
    auto regions = memory_.map()->regions();
    if ((detail & 1) != 0) {
      driver_lies_ = true;  // it has buffers there
      regions.erase(regions.begin() + ((detail >> 1) & 1));
    }
    relay([&] {
      const auto replaced =
          relay_->replace_maps(RelayMaps::untranslated(value_or_die(memory::MemoryMap::make(std::move(regions)))));
      require(replaced || driver_lies_);
    });
    return true;
  }

  // --- The IOMMU ----------------------------------------------------------------------------------------------------

  RelayMaps maps() const {
    if (apart_ == 0) return RelayMaps::untranslated(memory_.map());
    return {.driver = iotlb_.map(memory_.map()), .device = memory_.map()};
  }
  /// What the driver itself has: all of it.
  std::shared_ptr<const memory::MemoryMap> make_driver_map() const {
    if (apart_ == 0) return memory_.map();
    memory::Iotlb all;
    for (const memory::Region& region : memory_.map()->regions()) {
      const auto known = all.update({.iova = driver_address(region.iova),
                                     .size = region.size,
                                     .frontend_va = region.frontend_va,
                                     .access = memory::Access::read_write},
                                    *memory_.map());
      require(known.has_value());
    }
    return all.map(memory_.map());
  }
  /// A page that is the driver's is where it is; any other leads nowhere, or wraps.
  void learn(memory::Iova page, std::uint64_t size = kPage) {
    const std::uint64_t offset = page.value() - apart_ - GuestMemory::kBase;
    const bool is_known = iotlb_
                              .update({.iova = page,
                                       .size = size,
                                       .frontend_va = memory::FrontendVa(GuestMemory::kFrontendBase + offset),
                                       .access = memory::Access::read_write},
                                      *memory_.map())
                              .has_value();
    const bool is_inside = offset < kMemory && size != 0 && size <= kRegion - offset % kRegion;
    require(is_known == is_inside);
  }
  void learn_ring() {
    std::vector<memory::Miss> misses;
    require(virtio::RingAreas::list_missing(config_, *maps().driver, misses));
    for (const memory::Miss& miss : misses) learn(miss.at);
  }
  void replace_maps() {
    relay([&] { require(relay_->replace_maps(maps()).has_value()); });
    wait_.reset();
  }
  void answer(std::size_t limit) {
    if (wait_) {
      auto& misses = wait_->misses;
      for (const memory::Miss& miss : std::span(misses).first(std::min(limit, misses.size()))) learn(miss.at);
    }
    replace_maps();
  }
  /// What is told, again or unasked, and what is taken back. False: nothing is left to be done.
  bool translate(unsigned detail) {
    if (detail < 6) {
      answer(detail < 3 ? ~std::size_t{0} : detail - 3);
      return true;
    }
    const std::uint64_t first = input_.byte() % (kMemory / 256) * 256;
    const std::uint64_t size = input_.byte() * std::uint64_t{256};
    const memory::Iova at(GuestMemory::kBase + apart_ + first);
    if (detail < 9) {
      learn(at, size);
      if (detail == 8) learn(memory::Iova(0 - first), size);
      replace_maps();
      return true;
    }
    if (size == 0) return true;
    const memory::IovaRange range{.first = at, .size = size};
    if (!relay_->uses(range)) {
      iotlb_.invalidate(range);
      replace_maps();
      return true;
    }
    if (moves_++ >= kMostMoves) return true;
    return move([&] { iotlb_.invalidate(range); });
  }

  FuzzInput& input_;
  FeatureSet device_features_;
  std::uint64_t apart_;
  GuestMemory memory_;
  memory::Iotlb iotlb_;
  std::shared_ptr<const memory::MemoryMap> driver_map_;
  std::optional<RelayQueue::Wait> wait_;
  virtio::RingConfig config_;
  std::optional<virtio::IndirectArea> tables_;
  DriverQueue driver_;
  std::shared_ptr<const Mapping> log_bits_;
  std::optional<ShadowRing> shadow_;
  std::optional<DeviceQueue> device_;
  std::unique_ptr<RelayQueue> relay_;
  bool has_fault_ = false;
  bool driver_lies_ = false;      // from now on
  bool device_lies_ = false;      // the one that is there
  bool has_device_lied_ = false;  // any
  unsigned moves_ = 0;
  ChainBatch batch_;
  std::deque<Held> held_;
  std::deque<memory::Iova> free_;
  std::map<std::uint64_t, Sent> sent_;
  std::map<std::uint64_t, std::uint32_t> answers_;  // by token: what an honest device said it wrote
  std::uint64_t next_token_ = 1;
};

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kMostSteps = 512;
  FuzzInput input(std::span(data, size));
  const std::uint8_t features = input.byte();
  World world(input, features, input.byte());
  for (std::size_t i = 0; i < kMostSteps && !input.is_empty(); ++i) {
    if (!world.step()) return 0;
  }
  world.settle();
  return 0;
}

// What the tests and fuzzers of this module share: a driver side that speaks raw bytes, a Device that records what it
// is told, and a census of descriptors and mappings.
#pragma once

#include "base/loop.h"
#include "port/port.h"
#include "vhost_user/codec.h"
#include "vhost_user/wire.h"
#include "virtio/device_queue.h"
#include "virtio/net.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace causeway::vhost_user::testing {

/// Open descriptors and mapped memory files of this process. Equal before and after means that nothing leaked.
struct Census {
  std::set<int> fds;
  std::size_t mappings = 0;
  bool operator==(const Census&) const = default;

  static Census take() {
    Census census;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      // The undefined-behaviour sanitizer keeps pipes of its own, and we have none. The directory itself is open, too.
      std::error_code gone;
      const auto target = std::filesystem::read_symlink(entry.path(), gone).native();
      if (gone || target.starts_with("pipe:") || target.ends_with("/fd")) continue;
      census.fds.insert(std::stoi(entry.path().filename()));
    }
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      if (line.contains("memfd:")) ++census.mappings;
    }
    return census;
  }
};

inline constexpr std::uint32_t kConfigSize = 12;
inline constexpr std::uint32_t kWritableConfig = 6;  ///< the first bytes, which the driver may write

inline constexpr std::uint32_t kBlockConfigSize = 60;
inline constexpr std::uint64_t kPage = 4096;

/// A device of `pairs` queue pairs that moves nothing and remembers everything; as a disk it keeps the record of what
/// is in flight.
class FakeDevice final : public vdpa::Device {
 public:
  struct Queue {
    virtio::DeviceQueue ring;
    std::optional<KickFd> kick;
    std::optional<CallFd> call;
    bool enabled = false;
    bool is_translated = false;
    bool is_logged = false;
    std::uint16_t found_at_start = 0;  ///< chains seen by the look at the start
  };

  explicit FakeDevice(std::uint16_t pairs, std::string name = "fake",
                      virtio::DeviceType type = virtio::DeviceType::net) {
    info_.name = std::move(name);
    info_.queues = static_cast<std::uint16_t>(pairs * 2);
    if (type == virtio::DeviceType::net) return;
    info_.type = type;
    info_.features = virtio::FeatureSet{virtio::Feature::version_1, virtio::Feature::ring_packed};
    info_.queues_per_unit = 1;
    info_.config_size = kBlockConfigSize;
    config.resize(kBlockConfigSize);
  }

  const vdpa::DeviceInfo& info() const override { return info_; }
  void set_observer(vdpa::DeviceObserver* an_observer) override { observer = an_observer; }
  Result<void> set_features(virtio::FeatureSet some) override {
    features = some;
    return {};
  }
  vdpa::Status status() const override { return status_; }
  Result<void> set_status(vdpa::Status status) override {
    status_ = status;
    if (status != vdpa::Status::reset) return {};
    queues.clear();
    decided.clear();
    translations.reset();
    return {};
  }
  Result<void> read_config(std::uint32_t offset, std::span<std::byte> to) const override {
    if (offset > config.size() || to.size() > config.size() - offset) return fail(Errc::peer_violation, "outside");
    std::memcpy(to.data(), config.data() + offset, to.size());
    return {};
  }
  Result<void> write_config(std::uint32_t offset, std::span<const std::byte> from) override {
    if (offset > kWritableConfig || from.size() > kWritableConfig - offset) {
      return fail(Errc::peer_violation, "configuration bytes from 6 on are read-only");
    }
    std::memcpy(config.data() + offset, from.data(), from.size());
    return {};
  }
  std::uint32_t config_generation() const override { return 0; }
  Result<void> map(std::span<const memory::Region> some) override {
    regions.insert(regions.end(), some.begin(), some.end());
    return {};
  }
  Result<void> unmap(std::span<const memory::Region> some) override {
    for (const auto& gone : some) {
      std::erase_if(regions, [&](const memory::Region& region) { return region.same_as(gone); });
    }
    return {};
  }
  bool translates(vdpa::QueueIndex queue) const override { return translating.contains(queue); }
  Result<void> set_translations(const std::shared_ptr<const memory::MemoryMap>& map,
                                const memory::IovaRange* gone) override {
    if (refuses_translations) return fail(Errc::not_supported, "no such translations");
    translations = map;
    Told news{.gone = gone != nullptr ? std::optional(*gone) : std::nullopt, .running = {}};
    for (auto& [index, queue] : queues) {
      if (!queue.is_translated) continue;
      news.running.insert(index);
      CW_CHECK(queue.ring.replace_map(map));
    }
    told.push_back(std::move(news));
    return {};
  }
  Result<void> set_queue(vdpa::QueueIndex queue, vdpa::QueueSetup setup) override {
    CW_TRY(auto map, memory::MemoryMap::make(regions));
    if (setup.is_translated) {
      if (translations == nullptr) return fail(Errc::not_supported, "told of no translations");
      map = translations;
    }
    const bool is_logged = setup.ring.log != nullptr;
    CW_TRY(auto ring, virtio::DeviceQueue::start(setup.ring, std::move(map),
                                                 info_.type == virtio::DeviceType::net ? virtio::Remember::nothing
                                                                                       : virtio::Remember::in_flight));
    virtio::ChainBatch batch;
    const std::uint16_t found = ring.take(batch, virtio::ChainBatch::kMaxChains);
    ring.untake(batch.chains());
    queues.insert_or_assign(queue, Queue{.ring = std::move(ring),
                                         .kick = std::move(setup.kick),
                                         .call = std::move(setup.call),
                                         .enabled = false,
                                         .is_translated = setup.is_translated,
                                         .is_logged = is_logged,
                                         .found_at_start = found});
    return {};
  }
  Result<void> enable_queue(vdpa::QueueIndex queue, bool enabled) override {
    if (!enabled && !queues.contains(queue)) return {};
    CW_TRY(Queue * state, find(queue));
    state->enabled = enabled;
    return {};
  }
  Result<void> set_call(vdpa::QueueIndex queue, std::optional<CallFd> call) override {
    CW_TRY(Queue * state, find(queue));
    state->call = std::move(call);
    return {};
  }
  Result<vdpa::QueueState> stop_queue(vdpa::QueueIndex queue, vdpa::StopMode mode) override {
    last_stop = mode;
    if (on_stop) on_stop();
    CW_TRY(const Queue* state, find(queue));
    const auto position = state->ring.state();
    queues.erase(queue);
    return position;
  }
  std::optional<vdpa::NotifyArea> notify_area(vdpa::QueueIndex queue) const override {
    if (!doorbells) return std::nullopt;
    return vdpa::NotifyArea{.fd = *doorbells, .offset = kPage * virtio::number(queue), .size = doorbell_size};
  }
  const OwnedFd* vfio_group(vdpa::QueueIndex) const override { return group ? &*group : nullptr; }
  /// A command is a subject below kSubjects and a value.
  vdpa::ControlReply control(std::span<const std::byte> command) override {
    if (command.size() != 2 || command[0] >= kSubjects) return {.ack = 1};
    decided[command[0]] = command[1];
    return {.ack = 0, .topic = std::to_integer<std::uint64_t>(command[0])};
  }
  std::vector<vdpa::Counter> counters(vdpa::QueueIndex) const override { return {}; }
  Result<void> announce(std::span<const std::byte, 6> mac) override {
    announced.assign(mac.begin(), mac.end());
    return {};
  }
  Result<void> set_mtu(std::uint16_t an_mtu) override {
    mtu = an_mtu;
    return {};
  }

  Result<Queue*> find(vdpa::QueueIndex queue) {
    const auto found = queues.find(queue);
    if (found == queues.end()) return fail(Errc::not_found, "the queue does not run");
    return &found->second;
  }
  void log_dirty() { info_.can.logs_dirty = true; }
  bool runs(std::uint16_t queue) const { return queues.contains(vdpa::QueueIndex{queue}); }

  std::map<vdpa::QueueIndex, Queue> queues;
  std::vector<memory::Region> regions;
  vdpa::DeviceObserver* observer = nullptr;
  virtio::FeatureSet features;
  std::map<std::byte, std::byte> decided;  ///< by control commands since the reset
  static constexpr std::byte kSubjects{8};
  std::vector<std::byte> config = std::vector<std::byte>(kConfigSize);
  std::vector<std::byte> announced;
  std::uint16_t mtu = 0;
  std::set<vdpa::QueueIndex> translating;  ///< the queues that can work behind an IOMMU
  bool refuses_translations = false;
  std::shared_ptr<const memory::MemoryMap> translations;
  /// What it was told with those: what is gone, and the translated queues that ran.
  struct Told {
    std::optional<memory::IovaRange> gone;
    std::set<vdpa::QueueIndex> running;
  };
  std::vector<Told> told;
  std::optional<vdpa::StopMode> last_stop;
  std::function<void()> on_stop;
  std::optional<OwnedFd> doorbells;  ///< a page for each queue
  std::uint64_t doorbell_size = kPage;
  std::optional<OwnedFd> group;  ///< of all queues

 private:
  vdpa::DeviceInfo info_{.name = {},
                         .type = virtio::DeviceType::net,
                         .features = virtio::FeatureSet{virtio::Feature::version_1, virtio::Feature::ring_reset}
                                         .with(virtio::Feature::event_idx)
                                         .with(virtio::Feature::access_platform)
                                         .with(virtio::NetFeature::mac)
                                         .with(virtio::NetFeature::mq),
                         .queues = 0,
                         .queues_per_unit = 2,
                         .largest_ring = 32768,
                         .config_size = kConfigSize,
                         .can = {.record_in_flight = true}};
  vdpa::Status status_ = vdpa::Status::reset;
};

/// Appends the bytes of plain values.
template <class... T>
Bytes bytes_of(const T&... values) {
  Bytes bytes;
  const auto add = [&bytes](const auto& value) {
    const auto raw = std::as_bytes(std::span(&value, 1));
    bytes.insert(bytes.end(), raw.begin(), raw.end());
  };
  (add(values), ...);
  return bytes;
}

template <class T>
T value_of(std::span<const std::byte> bytes) {
  T value{};
  if (bytes.size() >= sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

/// A message as raw bytes, so that wrong ones can be made.
inline Bytes message(std::uint32_t request, std::uint32_t flags, const Bytes& payload) {
  Bytes bytes =
      bytes_of(wire::Header{.request = request, .flags = flags, .size = static_cast<std::uint32_t>(payload.size())});
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return bytes;
}

/// Memory of a guest: one memfd, and our own view of it.
class GuestMemory {
 public:
  static constexpr std::uint64_t kSize = 0x100000;
  static constexpr std::uint64_t kGpa = 0x10000000;
  static constexpr std::uint64_t kFrontendVa = 0x7f0000000000;

  GuestMemory() : file_(std::move(*make_memfd("guest", kSize))) {
    base_ = static_cast<std::byte*>(::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, file_.borrow(), 0));
  }
  ~GuestMemory() { ::munmap(base_, kSize); }
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  const OwnedFd& file() const { return file_; }
  void store16(std::uint64_t offset, std::uint16_t value) { std::memcpy(base_ + offset, &value, sizeof value); }

  /// Region `index` of `count` equal parts of the file.
  static wire::Region region(std::uint64_t index = 0, std::uint64_t count = 1) {
    const std::uint64_t size = kSize / count;
    return {.guest_address = kGpa + index * size,
            .size = size,
            .user_address = kFrontendVa + index * size,
            .mmap_offset = index * size};
  }

  /// Where the rings of a queue lie in the file: 4 KiB for each area.
  static constexpr std::uint64_t descriptors(std::uint32_t queue) { return queue * 0x3000ULL; }
  static constexpr std::uint64_t available(std::uint32_t queue) { return queue * 0x3000ULL + 0x1000; }
  static constexpr std::uint64_t used(std::uint32_t queue) { return queue * 0x3000ULL + 0x2000; }

 private:
  OwnedFd file_;
  std::byte* base_;
};

inline wire::VringAddr ring_addresses(std::uint32_t queue, std::uint64_t base = GuestMemory::kFrontendVa) {
  return {.index = queue,
          .flags = 0,
          .descriptors = base + GuestMemory::descriptors(queue),
          .used = base + GuestMemory::used(queue),
          .available = base + GuestMemory::available(queue),
          .log = 0};
}

}  // namespace causeway::vhost_user::testing

// A disk driver that only makes load: our driver side at the end of a vhost-user socket. Says "ready", then obeys lines
// on its standard input: "run OPERATION BYTES DEPTH SECONDS", with read, write (at random) or next-read, next-write
// (one behind the other), answers with requests per second; end of input ends it.
//
// With --gaps it listens on the socket itself and writes blocks at random until its input ends, also when the back-end
// dies and comes back. Whenever nothing was completed for so long, it says from when to when (CLOCK_MONOTONIC, in
// nanoseconds): "GAP START END". At the end it reads all back; each request must have been completed once, with
// success: "DONE WRITES BLOCKS".
#include "base/log.h"
#include "vhost_user/frontend.h"
#include "virtio/blk.h"
#include "virtio/driver_queue.h"

#include <fmt/format.h>

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace causeway;
using std::chrono::duration, std::chrono::microseconds, std::chrono::milliseconds, std::chrono::steady_clock;

constexpr memory::Iova kBase(0x1'0000'0000);
constexpr std::uint32_t kEntries = 1024;
constexpr std::uint32_t kDepth = 128;                // requests at once, at most
constexpr std::uint64_t kSlot = (128 << 10) + 4096;  // data, then header and status on a page of their own
constexpr std::uint64_t kRings = 1 << 20;
constexpr std::uint64_t kMemory = kRings + kDepth * kSlot;

constexpr std::uint32_t kGapDepth = 32;
constexpr std::uint32_t kGapBlock = 4096;

struct Request {
  bool writes;
  std::uint32_t bytes;
  std::uint64_t sector;
};

memory::Iova at(std::uint64_t offset) {
  return memory::Iova(kBase.value() + offset);
}

/// The disk's ring, and for each request under way a slot of memory.
class Disk final : private vdpa::DeviceObserver {
 public:
  Result<void> start(vhost_user::FrontendConfig config) {
    config.name = "disk";
    config.type = virtio::DeviceType::block;
    config.queues = 1;
    CW_TRY(device_, vhost_user::Frontend::make(loop_, std::move(config)));
    device_->set_observer(this);
    // A driver that could not flush would have each write made durable.
    const auto features = virtio::FeatureSet{virtio::BlkFeature::flush}.with(virtio::Feature::version_1);
    CW_CHECK(device_->set_features(features));
    virtio::BlkConfig space{};
    CW_CHECK(device_->read_config(0, std::as_writable_bytes(std::span(&space, 1)).first(60)));
    capacity_ = space.capacity * virtio::kSectorSize;
    CW_TRY(auto file, make_memfd("load", kMemory));
    CW_TRY(auto region, memory::Region::map(kBase, memory::FrontendVa(kBase.value()), kMemory, std::move(file), 0));
    CW_TRY(map_, memory::MemoryMap::make({std::move(region)}));
    CW_CHECK(device_->map(map_->regions()));
    return start_queue(features);
  }

  Loop& loop() { return loop_; }
  std::uint64_t capacity() const { return capacity_; }  ///< bytes

  void submit(const Request& request, std::uint32_t slot) {
    const std::uint64_t data = kRings + slot * kSlot;
    const std::uint64_t head = data + (128 << 10);
    const auto type = request.writes ? virtio::BlkRequestType::out : virtio::BlkRequestType::in;
    const auto header = *map_->translate(at(head), 32);
    header.put(
        0, virtio::BlkRequestHeader{.type = static_cast<std::uint32_t>(type), .reserved = 0, .sector = request.sector});
    header.put(16, kNoStatus);
    const virtio::DriverBuffer first{.address = at(head), .length = sizeof(virtio::BlkRequestHeader)};
    const virtio::DriverBuffer middle{.address = at(data), .length = request.bytes};
    const virtio::DriverBuffer last{.address = at(head + 16), .length = 1};
    const std::array sent{first, middle};
    const std::array answered{middle, last};
    const std::span readable(sent);
    const std::span writable(answered);
    ring_->add(readable.first(request.writes ? 2 : 1), writable.subspan(request.writes ? 1 : 0), slot);
  }
  void publish() {
    if (ring_->publish()) kick_->signal();
  }
  /// The slot of a request that was completed.
  Result<std::optional<std::uint32_t>> reap() {
    const auto used = ring_->reap();
    if (!used) {
      if (ring_->is_broken()) return fail(Errc::peer_violation, "a request was completed that was not under way");
      return std::nullopt;
    }
    const auto slot = static_cast<std::uint32_t>(used->token);
    const std::uint64_t status = kRings + slot * kSlot + (128 << 10) + 16;
    if (map_->translate(at(status), 1)->fetch<std::uint8_t>(0) != 0) {
      return fail(Errc::peer_violation, "a request failed");
    }
    return slot;
  }
  memory::GuestSpan data(std::uint32_t slot) const { return *map_->translate(at(kRings + slot * kSlot), kGapBlock); }
  /// Thread: any.
  bool has_failed() const { return has_failed_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::uint8_t kNoStatus = 0xff;

  // DeviceObserver
  void config_changed() override {}
  void queue_failed(vdpa::QueueIndex /*queue*/, Error reason) override { on_failure(reason); }
  void device_gone(Error reason) override { on_failure(reason); }
  void on_failure(const Error& reason) {
    log::error("{}", reason.text());
    has_failed_ = true;
  }

  Result<void> start_queue(virtio::FeatureSet features) {
    CW_TRY(const auto size, virtio::QueueSize::split(kEntries));
    const auto sizes = virtio::RingAreaSizes::of(virtio::Layout::split, size);
    const std::uint64_t available = sizes.descriptors.bytes;
    const std::uint64_t used = (available + sizes.available.bytes + 63) / 64 * 64;
    const virtio::RingConfig config{.size = size,
                                    .descriptors = at(0),
                                    .available = at(available),
                                    .used = at(used),
                                    .features = features,
                                    .start = virtio::QueueState::initial(virtio::Layout::split)};
    CW_TRY(ring_, virtio::SplitDriverQueue::start(config, map_));
    ring_->disarm();
    CW_TRY(kick_, KickFd::make());
    const virtio::QueueIndex queue{0};
    CW_CHECK(device_->set_queue(queue, {.ring = config, .kick = kick_, .call = std::nullopt}));
    return device_->enable_queue(queue, true);
  }

  Loop loop_;
  std::unique_ptr<vhost_user::Frontend> device_;
  std::shared_ptr<const memory::MemoryMap> map_;
  std::optional<virtio::SplitDriverQueue> ring_;
  std::optional<KickFd> kick_;
  std::uint64_t capacity_ = 0;
  std::atomic<bool> has_failed_ = false;
};

struct Run {
  bool writes;
  bool is_random;
  std::uint32_t bytes;
  std::uint32_t depth;
  double seconds;
};

/// As many requests as can be done in a time.
class Load {
 public:
  explicit Load(Disk& disk) : disk_(disk) {}

  /// Requests per second, or an error when one of them failed.
  Result<double> run(const Run& run) {
    steady_clock::time_point begin = steady_clock::now();
    const auto end = begin + duration<double>(run.seconds);
    std::uint64_t done = 0;
    std::uint64_t under_way = 0;
    for (std::uint32_t slot = 0; slot < run.depth; ++slot, ++under_way) submit(run, slot);
    disk_.publish();
    while (under_way != 0) {
      CW_TRY(const auto slot, disk_.reap());
      if (!slot) continue;
      ++done;
      // The clock is dear: looked at now and then.
      if (done % 32 == 0 || run.depth < 32) is_over_ = steady_clock::now() >= end;
      if (is_over_) {
        --under_way;
      } else {
        submit(run, *slot);
        disk_.publish();
      }
    }
    is_over_ = false;
    return static_cast<double>(done) / duration<double>(steady_clock::now() - begin).count();
  }

 private:
  void submit(const Run& run, std::uint32_t slot) {
    const std::uint64_t blocks = disk_.capacity() / run.bytes;
    next_ = run.is_random ? random_() % blocks : (next_ + 1) % blocks;
    disk_.submit({.writes = run.writes, .bytes = run.bytes, .sector = next_ * run.bytes / virtio::kSectorSize}, slot);
  }

  Disk& disk_;
  std::uint64_t next_ = 0;
  std::minstd_rand random_{42};
  bool is_over_ = false;
};

/// Writes that never end, each with a stamp of its own, and how long they were not completed.
class Endless {
 public:
  Endless(Disk& disk, microseconds least) : disk_(disk), least_(least), blocks_(disk.capacity() / kGapBlock) {}

  /// Until the input ends.
  Result<void> run() {
    for (std::uint32_t slot = 0; slot < kGapDepth; ++slot) write(slot);
    disk_.publish();
    last_ = looked_ = steady_clock::now();
    while (under_way_ != 0) {
      CW_TRY(const bool any, reap_all());
      const auto now = steady_clock::now();
      if (any) {
        disk_.publish();
        if (now - last_ >= least_) tell(last_, now);
        last_ = now;
      } else if (now - last_ > kPatience) {
        return fail(Errc::gone, fmt::format("{} requests are never completed", under_way_));
      } else if (now - last_ > kSpin) {
        // The back-end is away: a driver that went on spinning would take the processor from the one that starts.
        std::this_thread::sleep_for(microseconds(50));
      }
      if (now - looked_ > kSpin) CW_CHECK(look(now));
    }
    std::this_thread::sleep_for(milliseconds(100));
    CW_TRY(const auto more, disk_.reap());
    return more ? fail(Errc::peer_violation, "a request was completed twice") : Result<void>();
  }

  /// Reads every block that was written, and says how many.
  Result<std::uint64_t> verify() {
    std::uint64_t verified = 0;
    for (std::uint64_t block = 0; block < blocks_.size(); ++block) {
      if (blocks_[block].stamp == 0) continue;
      submit(0, block, false);
      disk_.publish();
      const auto begin = steady_clock::now();
      for (;;) {
        CW_TRY(const auto slot, disk_.reap());
        if (slot) break;
        if (steady_clock::now() - begin > kPatience) return fail(Errc::gone, "a request is never completed");
      }
      for (const std::size_t place : kStampPlaces) {
        if (disk_.data(0).fetch<std::uint64_t>(place) == blocks_[block].stamp) continue;
        return fail(Errc::peer_violation, fmt::format("block {} is not as it was written last", block));
      }
      ++verified;
    }
    return verified;
  }

  std::uint64_t written() const { return stamp_; }

 private:
  static constexpr milliseconds kSpin{1};
  static constexpr std::chrono::seconds kPatience{20};
  static constexpr std::array<std::size_t, 2> kStampPlaces{0, kGapBlock - sizeof(std::uint64_t)};

  struct Block {
    std::uint64_t stamp = 0;  ///< of the last write
    bool is_busy = false;
  };

  void write(std::uint32_t slot) {
    std::uint64_t block = 0;
    do block = random_() % blocks_.size();
    while (blocks_[block].is_busy);
    blocks_[block] = {.stamp = ++stamp_, .is_busy = true};
    at_[slot] = block;
    for (const std::size_t place : kStampPlaces) disk_.data(slot).put(place, stamp_);
    submit(slot, block, true);
    ++under_way_;
  }
  void submit(std::uint32_t slot, std::uint64_t block, bool writes) {
    disk_.submit({.writes = writes, .bytes = kGapBlock, .sector = block * kGapBlock / virtio::kSectorSize}, slot);
  }

  /// True when there was one.
  Result<bool> reap_all() {
    for (bool any = false;; any = true) {
      CW_TRY(const auto slot, disk_.reap());
      if (!slot) return any;
      --under_way_;
      blocks_[at_[*slot]].is_busy = false;
      if (!has_ended_) write(*slot);
    }
  }

  Result<void> look(steady_clock::time_point now) {
    looked_ = now;
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    has_ended_ = has_ended_ || ::poll(&input, 1, 0) > 0;
    return disk_.has_failed() ? fail(Errc::gone, "the disk has failed") : Result<void>();
  }

  static void tell(steady_clock::time_point from, steady_clock::time_point to) {
    using std::chrono::nanoseconds;
    std::cout << fmt::format("GAP {} {}\n", nanoseconds(from.time_since_epoch()).count(),
                             nanoseconds(to.time_since_epoch()).count())
              << std::flush;
  }

  Disk& disk_;
  microseconds least_;
  std::vector<Block> blocks_;
  std::array<std::uint64_t, kGapDepth> at_{};  // block by slot
  std::uint64_t stamp_ = 0;
  std::uint32_t under_way_ = 0;
  bool has_ended_ = false;
  steady_clock::time_point last_;    // when something was completed
  steady_clock::time_point looked_;  // for what else there is
  std::minstd_rand random_{42};
};

void run_on(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
}

Result<void> serve(const std::string& socket, unsigned cpu) {
  run_on(cpu);
  Disk disk;
  CW_CHECK(disk.start({.name = {}, .path = socket}));
  Load load(disk);
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb;
    std::string operation;
    Run run{};
    words >> verb >> operation >> run.bytes >> run.depth >> run.seconds;
    run.writes = operation.ends_with("write");
    run.is_random = !operation.starts_with("next-");
    if (!words || verb != "run" || run.depth == 0 || run.depth > kDepth || run.bytes == 0 || run.bytes > 128 << 10) {
      return fail(Errc::invalid_value, "expected: run OPERATION BYTES DEPTH SECONDS");
    }
    CW_TRY(const double rate, load.run(run));
    std::cout << fmt::format("{:.0f}", rate) << std::endl;
  }
  return {};
}

Result<void> find_gaps(Disk& disk, unsigned cpu, microseconds least) {
  run_on(cpu);
  Endless endless(disk, least);
  std::cout << "ready" << std::endl;
  CW_CHECK(endless.run());
  CW_TRY(const auto blocks, endless.verify());
  std::cout << fmt::format("DONE {} {}", endless.written(), blocks) << std::endl;
  return {};
}

Result<void> serve_gaps(const std::string& socket, unsigned cpu, microseconds least) {
  Disk disk;
  CW_CHECK(disk.start({.name = {},
                       .path = socket,
                       .role = vhost_user::Role::listen,
                       .reconnect = true,
                       .wait = std::chrono::seconds(20)}));
  // Looks after the connection, on any processor.
  std::jthread control([&] { disk.loop().run(); });
  auto done = find_gaps(disk, cpu, least);
  disk.loop().stop();
  return done;
}

Result<void> start(const std::vector<std::string>& arguments) {
  const auto cpu = static_cast<unsigned>(std::stoul(arguments[1]));
  if (arguments.size() == 2) return serve(arguments[0], cpu);
  return serve_gaps(arguments[0], cpu, microseconds(std::stoul(arguments[3])));
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() != 2 && (arguments.size() != 4 || arguments[2] != "--gaps")) {
    fmt::print(stderr, "usage: load_blk SOCKET CPU [--gaps MICROSECONDS]\n");
    return 2;
  }
  log::start("warn");
  const auto done = start(arguments);
  if (done) return 0;
  fmt::print(stderr, "load_blk: {}\n", done.error().text());
  return 1;
}

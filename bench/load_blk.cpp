// A disk driver that only makes load: our driver side at the end of a vhost-user socket. Says "ready", then obeys lines
// on its standard input: "run OPERATION BYTES DEPTH SECONDS", with read, write (at random) or next-read, next-write
// (one behind the other), answers with requests per second; end of input ends it.
#include "base/log.h"
#include "vhost_user/frontend.h"
#include "virtio/blk.h"
#include "virtio/driver_queue.h"

#include <fmt/format.h>

#include <pthread.h>
#include <sched.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace causeway;
using std::chrono::duration, std::chrono::steady_clock;

constexpr memory::Iova kBase(0x1'0000'0000);
constexpr std::uint32_t kEntries = 1024;
constexpr std::uint32_t kDepth = 128;                // requests at once, at most
constexpr std::uint64_t kSlot = (128 << 10) + 4096;  // data, then header and status on a page of their own
constexpr std::uint64_t kRings = 1 << 20;
constexpr std::uint64_t kMemory = kRings + kDepth * kSlot;

struct Run {
  bool writes;
  bool is_random;
  std::uint32_t bytes;
  std::uint32_t depth;
  double seconds;
};

memory::Iova at(std::uint64_t offset) {
  return memory::Iova(kBase.value() + offset);
}

class Load {
 public:
  Result<void> start(const std::string& socket) {
    CW_TRY(device_, vhost_user::Frontend::make(
                        loop_, {.name = "disk", .path = socket, .type = virtio::DeviceType::block, .queues = 1}));
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

  /// Requests per second, or an error when one of them failed.
  Result<double> run(const Run& run) {
    steady_clock::time_point begin = steady_clock::now();
    const auto end = begin + duration<double>(run.seconds);
    std::uint64_t done = 0;
    std::uint64_t under_way = 0;
    for (std::uint32_t slot = 0; slot < run.depth; ++slot, ++under_way) submit(run, slot);
    publish();
    while (under_way != 0) {
      const auto used = ring_->reap();
      if (!used) continue;
      if (status(*used) != 0) return fail(Errc::peer_violation, "a request failed");
      ++done;
      // The clock is dear: looked at now and then.
      if (done % 32 == 0 || run.depth < 32) is_over_ = steady_clock::now() >= end;
      if (is_over_) {
        --under_way;
      } else {
        submit(run, static_cast<std::uint32_t>(used->token));
        publish();
      }
    }
    is_over_ = false;
    return static_cast<double>(done) / duration<double>(steady_clock::now() - begin).count();
  }

 private:
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

  void submit(const Run& run, std::uint32_t slot) {
    const std::uint64_t data = kRings + slot * kSlot;
    const std::uint64_t head = data + (128 << 10);
    const std::uint64_t blocks = capacity_ / run.bytes;
    next_ = run.is_random ? random_() % blocks : (next_ + 1) % blocks;
    const auto type = run.writes ? virtio::BlkRequestType::out : virtio::BlkRequestType::in;
    const auto header = *map_->translate(at(head), 32);
    header.put(0, virtio::BlkRequestHeader{.type = static_cast<std::uint32_t>(type),
                                           .reserved = 0,
                                           .sector = next_ * run.bytes / virtio::kSectorSize});
    const virtio::DriverBuffer first{.address = at(head), .length = sizeof(virtio::BlkRequestHeader)};
    const virtio::DriverBuffer middle{.address = at(data), .length = run.bytes};
    const virtio::DriverBuffer last{.address = at(head + 16), .length = 1};
    const std::array sent{first, middle};
    const std::array answered{middle, last};
    const std::span readable(sent);
    const std::span writable(answered);
    ring_->add(readable.first(run.writes ? 2 : 1), writable.subspan(run.writes ? 1 : 0), slot);
  }
  void publish() {
    if (ring_->publish()) kick_->signal();
  }
  std::uint8_t status(const virtio::UsedChain& used) const {
    return map_->translate(at(kRings + used.token * kSlot + (128 << 10) + 16), 1)->fetch<std::uint8_t>(0);
  }

  Loop loop_;
  std::unique_ptr<vhost_user::Frontend> device_;
  std::shared_ptr<const memory::MemoryMap> map_;
  std::optional<virtio::SplitDriverQueue> ring_;
  std::optional<KickFd> kick_;
  std::uint64_t capacity_ = 0;
  std::uint64_t next_ = 0;
  std::minstd_rand random_{42};
  bool is_over_ = false;
};

void run_on(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
}

Result<void> serve(const std::string& socket) {
  Load load;
  CW_CHECK(load.start(socket));
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

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "usage: load_blk SOCKET CPU\n");
    return 2;
  }
  log::start("warn");
  run_on(static_cast<unsigned>(std::stoul(argv[2])));
  const auto done = serve(argv[1]);
  if (done) return 0;
  fmt::print(stderr, "load_blk: {}\n", done.error().text());
  return 1;
}

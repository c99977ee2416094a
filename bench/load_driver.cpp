// A virtio network driver that only makes load: our driver side at the end of a vhost-user socket, or of a virtio-pci
// function's vfio-user socket, with no packet pool behind it, so that the back-end is the slower side. Says "ready",
// then obeys lines on its standard input: "run SECONDS" answers with packets per second; end of input ends it.
#include "vfio_user/client.h"
#include "vhost_user/frontend.h"
#include "virtio/driver_queue.h"
#include "virtio/net.h"
#include "virtio_pci/device.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <pthread.h>
#include <sched.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

namespace {

using namespace causeway;
using std::chrono::duration, std::chrono::steady_clock;

constexpr memory::Iova kBase(0x1'0000'0000);
constexpr std::uint32_t kBurst = 32;
constexpr std::uint32_t kSlot = 2048;  // bytes of one buffer

struct Options {
  std::string socket;
  std::string to;  // of a second device, which receives what the first one's driver sends
  bool is_function = false;
  bool answers = false;  // its frames go the other way: from the receiver's address to the sender's
  unsigned cpu = 0;
  std::uint16_t pairs = 1;
  std::uint32_t entries = 256;
  std::uint32_t frame = 60;  // bytes, without virtio header and check sequence
  bool packed = false;
  bool in_order = false;
  bool mergeable = false;
  std::string mode = "transmit";

  virtio::FeatureSet features() const {
    virtio::FeatureSet set{virtio::Feature::version_1};
    if (packed) set = set.with(virtio::Feature::ring_packed);
    if (in_order) set = set.with(virtio::Feature::in_order);
    if (mergeable) set = set.with(virtio::NetFeature::mrg_rxbuf);
    if (pairs > 1) set = set.with(virtio::NetFeature::mq).with(virtio::NetFeature::ctrl_vq);
    return set;
  }
};

template <virtio::DriverRing Ring>
struct Queue {
  Ring ring;
  KickFd kick;
  std::shared_ptr<const Mapping> doorbell;  // rung in place of a kick, where there is one
  std::uint16_t index;
  std::vector<virtio::DriverBuffer> buffers;  // by token
  std::vector<std::uint64_t> idle;            // transmit buffers never sent yet

  void publish() {
    if (!ring.publish()) return;
    if (doorbell) {
      memory::GuestSpan::over({doorbell->data(), doorbell->size()}).store(0, index, std::memory_order_release);
    } else {
      kick.signal();
    }
  }
};

/// Device, memory, and a queue each way.
template <virtio::DriverRing Ring>
class Load {
 public:
  explicit Load(Options options) : options_(std::move(options)) {}

  Result<void> start() {
    CW_TRY(device_, make_device());
    CW_CHECK(device_->set_features(options_.features()));
    const std::uint64_t bytes = queue_count() * area_bytes();
    CW_TRY(auto file, make_memfd("load", bytes));
    CW_TRY(auto region, memory::Region::map(kBase, memory::FrontendVa(kBase.value()), bytes, std::move(file), 0));
    CW_TRY(map_, memory::MemoryMap::make({std::move(region)}));
    CW_CHECK(device_->map(map_->regions()));
    for (std::uint16_t i = 0; i < options_.pairs; ++i) {
      const auto number = static_cast<std::uint16_t>(2 * i);
      const std::uint32_t sent = static_cast<std::uint32_t>(sizeof(virtio::NetHeader)) + options_.frame;
      CW_TRY(auto receive, start_queue(number, kSlot));
      CW_TRY(auto transmit, start_queue(static_cast<std::uint16_t>(number + 1), sent));
      fill(receive, transmit);
      pairs_.push_back({std::move(receive), std::move(transmit)});
    }
    return {};
  }

  bool is_broken() const {
    return std::ranges::any_of(
        pairs_, [](const Pair& pair) { return pair.receive.ring.is_broken() || pair.transmit.ring.is_broken(); });
  }

  /// A burst each way on every pair, or one way only; returns how many packets count.
  std::uint64_t pass() {
    std::uint64_t packets = 0;
    for (Pair& pair : pairs_) {
      const std::uint64_t sent = options_.mode == "receive" ? 0 : transmit(pair.transmit, kBurst);
      packets += options_.mode == "transmit" ? sent : receive(pair.receive);
    }
    return packets;
  }
  /// Sends one frame, from which a switch learns where its sender is.
  void show_up() { transmit(pairs_.front().transmit, 1); }

 private:
  struct Pair {
    Queue<Ring> receive;
    Queue<Ring> transmit;
  };

  Result<std::unique_ptr<vdpa::Device>> make_device() {
    if (options_.is_function) {
      CW_TRY(auto bus, vfio_user::Client::connect(loop_, {.path = options_.socket}));
      CW_TRY(auto device, virtio_pci::Device::make(loop_, std::move(bus), {.name = "device", .queues = queue_count()}));
      return std::unique_ptr<vdpa::Device>(std::move(device));
    }
    CW_TRY(auto device,
           vhost_user::Frontend::make(loop_, {.name = "device", .path = options_.socket, .queues = queue_count()}));
    return std::unique_ptr<vdpa::Device>(std::move(device));
  }
  std::uint16_t queue_count() const { return static_cast<std::uint16_t>(2 * options_.pairs); }
  std::uint64_t area_bytes() const { return std::uint64_t{options_.entries} * kSlot + (std::uint64_t{1} << 20); }

  void fill(Queue<Ring>& receive, Queue<Ring>& transmit) {
    for (std::uint64_t i = 0; i < options_.entries; ++i) {
      receive.ring.add({}, {&receive.buffers[i], 1}, i);
      write_frame(transmit.buffers[i].address);
      transmit.idle.push_back(i);
    }
    receive.publish();
  }

  Result<Queue<Ring>> start_queue(std::uint16_t index, std::uint32_t length) {
    const std::uint64_t place = kBase.value() + index * area_bytes();
    const auto layout = virtio::layout_of(options_.features());
    CW_TRY(const auto size, virtio::QueueSize::make(layout, options_.entries));
    const virtio::RingConfig config{.size = size,
                                    .descriptors = memory::Iova(place),
                                    .available = memory::Iova(place + 0x8'0000),
                                    .used = memory::Iova(place + 0xa'0000),
                                    .features = options_.features(),
                                    .start = virtio::QueueState::initial(layout)};
    CW_TRY(auto ring, Ring::start(config, map_));
    CW_TRY(auto kick, KickFd::make());
    CW_TRY(auto call, CallFd::make());
    ring.disarm();
    const vdpa::QueueSetup setup{.ring = config, .kick = kick, .call = call, .enabled = true};
    CW_CHECK(device_->set_queue(vdpa::QueueIndex{index}, setup));
    CW_CHECK(device_->enable_queue(vdpa::QueueIndex{index}, true));
    Queue<Ring> queue{.ring = std::move(ring), .kick = kick, .doorbell = {}, .index = index, .buffers = {}, .idle = {}};
    if (const auto area = device_->notify_area(vdpa::QueueIndex{index})) {
      CW_TRY(queue.doorbell, Mapping::map(area->fd, area->offset, area->size));
    }
    for (std::uint64_t i = 0; i < options_.entries; ++i) {
      queue.buffers.push_back({.address = memory::Iova(place + 0x10'0000 + i * kSlot), .length = length});
    }
    return queue;
  }

  void write_frame(memory::Iova address) {
    std::array<std::byte, kSlot> frame{};
    const std::uint8_t from = options_.answers ? 1 : 2;
    const auto to = static_cast<std::uint8_t>(3 - from);
    const std::array<std::uint8_t, 14> ethernet{0x52, 0x54, 0, 0, 0, to, 0x52, 0x54, 0, 0, 0, from, 0x88, 0xb5};
    std::ranges::copy(std::as_bytes(std::span(ethernet)), frame.begin() + sizeof(virtio::NetHeader));
    map_->translate(address, kSlot)->write(0, frame);
  }

  std::uint64_t transmit(Queue<Ring>& queue, std::uint64_t limit) {
    std::uint64_t sent = 0;
    for (; sent < limit; ++sent) {
      if (const auto used = queue.ring.reap()) {
        queue.ring.add({&queue.buffers[used->token], 1}, {}, used->token);
      } else if (!queue.idle.empty()) {
        queue.ring.add({&queue.buffers[queue.idle.back()], 1}, {}, queue.idle.back());
        queue.idle.pop_back();
      } else {
        break;
      }
    }
    queue.publish();
    return sent;
  }

  std::uint64_t receive(Queue<Ring>& queue) {
    std::uint64_t received = 0;
    while (received < kBurst) {
      const auto used = queue.ring.reap();
      if (!used) break;
      queue.ring.add({}, {&queue.buffers[used->token], 1}, used->token);
      ++received;
    }
    queue.publish();
    return received;
  }

  Options options_;
  Loop loop_;
  std::unique_ptr<vdpa::Device> device_;
  std::shared_ptr<const memory::MemoryMap> map_;
  std::vector<Pair> pairs_;
};

void run_on(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
}

/// Packets per second, as `pass` counts them.
template <class Pass>
double run(double seconds, Pass pass) {
  const auto begin = steady_clock::now();
  std::uint64_t packets = 0;
  double elapsed = 0;
  do {
    for (int i = 0; i < 256; ++i) packets += pass();
    elapsed = duration<double>(steady_clock::now() - begin).count();
  } while (elapsed < seconds);
  return static_cast<double>(packets) / elapsed;
}

template <virtio::DriverRing Ring>
Result<void> serve(Options options) {
  std::optional<Load<Ring>> receiver;
  if (!options.to.empty()) {
    Options far = options;
    options.mode = "transmit";
    far.mode = "receive";
    far.socket = options.to;
    far.answers = true;
    receiver.emplace(std::move(far));
    CW_CHECK(receiver->start());
  }
  Load<Ring> load(options);
  CW_CHECK(load.start());
  fmt::print("ready\n");
  std::fflush(stdout);
  std::string word;
  double seconds = 0;
  while (std::cin >> word >> seconds && word == "run") {
    if (receiver) receiver->show_up();
    const double rate = run(seconds, [&] {
      const std::uint64_t packets = load.pass();
      return receiver ? receiver->pass() : packets;
    });
    if (load.is_broken() || (receiver && receiver->is_broken())) {
      return fail(Errc::peer_violation, "the back-end returned what it was not given");
    }
    fmt::print("{:.0f}\n", rate);
    std::fflush(stdout);
  }
  return {};
}

}  // namespace

int main(int count, char** words) {
  Options options;
  CLI::App app("Load for a vhost-user network back-end, or a network function behind vfio-user");
  app.add_option("socket", options.socket, "the back-end's or the function's socket")->required();
  app.add_flag("--function", options.is_function, "the socket is a function's");
  app.add_option("--to", options.to, "socket of a second device, which receives what is sent");
  app.add_option("--cpu", options.cpu, "processor to run on");
  app.add_option("--pairs", options.pairs, "queue pairs");
  app.add_option("--entries", options.entries, "of each ring");
  app.add_option("--frame", options.frame, "bytes of a frame, 60 to 1514")->check(CLI::Range(60, 1514));
  app.add_flag("--packed", options.packed);
  app.add_flag("--in-order", options.in_order);
  app.add_flag("--mergeable", options.mergeable);
  app.add_option("--mode", options.mode)->check(CLI::IsMember({"transmit", "receive", "both"}));
  CLI11_PARSE(app, count, words);
  run_on(options.cpu);
  const auto served =
      options.packed ? serve<virtio::PackedDriverQueue>(options) : serve<virtio::SplitDriverQueue>(options);
  if (!served) fmt::print(stderr, "{}\n", served.error().text());
  return served ? 0 : 1;
}

// From a kick to the call that answers it: one frame at a time through a reflecting port whose worker adapts, against a
// bare ping-pong over two eventfds between two threads. The driver runs on processor 0, the worker on processor 1.
#include "net/nic.h"
#include "net/reflector.h"
#include "port/port.h"

#include <fmt/format.h>

#include <poll.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "support/fake_guest.h"
#include "support/guest_memory.h"

namespace {

using namespace causeway;
using std::chrono::nanoseconds, std::chrono::steady_clock;
using testing::value_or_die;

constexpr int kSamples = 4000;  // of each run
constexpr int kRuns = 9;
constexpr auto kIdle = std::chrono::milliseconds(1);  // long enough for an adaptive worker to fall asleep

void run_on(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
}

void wait_for(const OwnedFd& fd) {
  pollfd entry{.fd = fd.borrow(), .events = POLLIN, .revents = 0};
  ::poll(&entry, 1, -1);
}

/// Nanoseconds: the middle one and that of the slowest hundredth.
struct Latency {
  double median;
  double p99;
};

Latency summary(std::vector<double> samples) {
  std::ranges::sort(samples);
  return {.median = samples[samples.size() / 2], .p99 = samples[samples.size() * 99 / 100]};
}

template <class Once>
Latency measure(bool idle, Once once) {
  std::vector<double> samples;
  const int count = idle ? kSamples / 10 : kSamples;
  for (int i = 0; i < count; ++i) {
    if (idle) std::this_thread::sleep_for(kIdle);
    const auto begin = steady_clock::now();
    once();
    samples.push_back(static_cast<double>(nanoseconds(steady_clock::now() - begin).count()));
  }
  return summary(std::move(samples));
}

/// A guest on a port that reflects.
struct Reflected {
  Reflected()
      : worker(value_or_die(Worker::start({.name = "bench", .polling = Polling::adaptive, .cpu = 1}))),
        port(make_port()),
        guest(value_or_die(testing::FakeGuest::plug_in(*port, {.features = {virtio::Feature::event_idx}}))),
        frame(60) {}

  std::unique_ptr<port::Port> make_port() {
    auto link = std::make_shared<net::Reflector>(*worker, "bench", net::Reflection::reflect);
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    const net::NicConfig config{.name = "soft", .mac = {{0x52, 0x54, 0, 0, 0, 1}}, .mtu = std::nullopt};
    devices.push_back(value_or_die(net::Nic::make(loop, config, std::move(link))));
    return value_or_die(port::Port::make(loop, {.name = "bench", .features_off = {}}, std::move(devices)));
  }

  void once() {
    guest->reap(0);
    guest->receive_call(0).drain();
    guest->arm_receive(0);
    guest->send(0, {}, frame);
    guest->flush(0);
    while (!guest->receive(0)) wait_for(guest->receive_call(0).fd());
  }

  Loop loop;
  std::unique_ptr<Worker> worker;
  std::unique_ptr<port::Port> port;
  std::unique_ptr<testing::FakeGuest> guest;
  std::vector<std::byte> frame;
};

/// Two threads and two eventfds; both sleep between their turns.
struct PingPong {
  PingPong() : there(value_or_die(EventFd::make())), back(value_or_die(EventFd::make())), far([this] { answer(); }) {}
  ~PingPong() {
    stop = true;
    there.signal();
  }
  void answer() {
    run_on(1);
    while (!stop) {
      wait_for(there.fd());
      there.drain();
      back.signal();
    }
  }
  void once() const {
    there.signal();
    wait_for(back.fd());
    back.drain();
  }

  EventFd there;
  EventFd back;
  std::atomic<bool> stop = false;
  std::jthread far;
};

void compare(const char* name, bool idle) {
  Reflected port;
  PingPong bare;
  std::vector<double> medians;
  std::vector<double> tails;
  std::vector<double> ratios;
  for (int run = 0; run < kRuns; ++run) {
    const Latency ours = measure(idle, [&] { port.once(); });
    const Latency theirs = measure(idle, [&] { bare.once(); });
    medians.push_back(ours.median);
    tails.push_back(ours.p99);
    ratios.push_back(ours.median / theirs.median);
  }
  const auto [low, high] = std::ranges::minmax(ratios);
  fmt::print("{:<6} {:>8.1f} us {:>8.1f} us   {:.2f} ({:.2f} to {:.2f})\n", name, summary(medians).median / 1000,
             summary(tails).median / 1000, summary(ratios).median, low, high);
}

}  // namespace

int main() {
  run_on(0);
  fmt::print(
      "Kick to call through a reflecting port, adaptive worker, against an eventfd ping-pong; medians of {} runs\n",
      kRuns);
  fmt::print("worker   median         p99   median to ping-pong's (spread)\n");
  compare("busy", false);
  compare("idle", true);
}

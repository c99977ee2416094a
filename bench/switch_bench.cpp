// VM to VM through the switch, against a plain copy of the same bytes: how near the one copy comes to its limit.
// Two guests' driver sides run in this thread on processor 0, the switch's worker on processor 1. Pairs alternate.

#include "net/two_guests.h"

#include <fmt/format.h>

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <vector>

namespace {

using namespace causeway;
using namespace causeway::testing;
using std::chrono::duration, std::chrono::steady_clock;

constexpr int kPairs = 9;
constexpr auto kInterval = std::chrono::milliseconds(400);
constexpr std::size_t kSlots = 256;
constexpr std::size_t kSlotBytes = 2048;

void run_on(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
}

std::vector<std::byte> make_frame(std::uint32_t bytes) {
  std::vector<std::byte> frame(bytes);
  const net::EthernetHeader ethernet{.destination = kMacB, .source = kMacA, .ether_type = {0x88, 0xb5}};
  std::memcpy(frame.data(), &ethernet, sizeof ethernet);
  return frame;
}

/// Frames per second from guest A to guest B.
double switch_rate(TwoGuests& net, std::uint32_t bytes) {
  const auto begin = steady_clock::now();
  std::uint64_t received = 0;
  while (steady_clock::now() - begin < kInterval) {
    for (int round = 0; round < 16; ++round) {
      net.a->reap(0);
      while (net.a->send_again(0, bytes)) continue;
      net.a->flush(0);
      received += net.b->discard(0, kSlots);
    }
  }
  return static_cast<double>(received) / duration<double>(steady_clock::now() - begin).count();
}

/// Copies per second of as many bytes between two rings of buffers.
double copy_rate(std::uint32_t bytes) {
  static std::vector<std::byte> from(kSlots * kSlotBytes);
  static std::vector<std::byte> to(kSlots * kSlotBytes);
  const auto begin = steady_clock::now();
  std::uint64_t copies = 0;
  while (steady_clock::now() - begin < kInterval) {
    for (std::size_t i = 0; i < 16 * kSlots; ++i) {
      const std::size_t at = i % kSlots * kSlotBytes;
      std::memcpy(to.data() + at, from.data() + at, bytes);
      asm volatile("" : : "r"(to.data()) : "memory");
    }
    copies += 16 * kSlots;
  }
  return static_cast<double>(copies) / duration<double>(steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void compare(std::uint32_t bytes) {
  TwoGuests net({.features = {}, .buffer_size = kSlotBytes}, {.features = {}, .buffer_size = kSlotBytes}, Polling::poll,
                1);
  net.a->fill_transmit_buffers(0, make_frame(bytes));
  std::vector<double> switched;
  std::vector<double> copied;
  std::vector<double> ratios;
  std::uint64_t items = 0;
  std::uint64_t cycles = 0;
  for (int i = 0; i < kPairs; ++i) {
    const auto before = net.worker->stats();
    switched.push_back(switch_rate(net, bytes));
    const auto after = net.worker->stats();
    items += after.items - before.items;
    cycles += after.busy_cycles - before.busy_cycles;
    copied.push_back(copy_rate(bytes));
    ratios.push_back(switched.back() / copied.back());
  }
  const auto [low, high] = std::ranges::minmax(ratios);
  fmt::print("{:>6} B   {:>7.2f} Mpps   {:>7.2f} M/s   {:.3f} ({:.3f} to {:.3f})   {:>5.0f}\n", bytes,
             median(switched) / 1e6, median(copied) / 1e6, median(ratios), low, high,
             static_cast<double>(cycles) / static_cast<double>(std::max<std::uint64_t>(items, 1)));
}

}  // namespace

int main() {
  run_on(0);
  fmt::print("VM to VM through the switch against a plain copy, medians of {} alternating pairs\n", kPairs);
  fmt::print("   frame         switch     plain copy   ratio (spread)            cycles a frame\n");
  for (const std::uint32_t bytes : {60U, 508U, 1514U}) compare(bytes);
}

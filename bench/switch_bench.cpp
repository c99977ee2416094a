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
/// What is sent, and through what.
struct Load {
  std::uint32_t bytes;       // of a frame
  std::uint32_t slots;       // ring entries, and buffers to copy between
  std::uint32_t slot_bytes;  // of a buffer
  bool segmented;            // a TCP frame that the sender leaves to be cut, and the receiver takes whole
};

void run_on(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
}

std::vector<std::byte> make_frame(const Load& load) {
  std::vector<std::byte> frame(load.bytes);
  net::EthernetHeader ethernet{.destination = kMacB, .source = kMacA, .ether_type = {0x88, 0xb5}};
  if (load.segmented) ethernet.ether_type = {0x08, 0x00};
  std::memcpy(frame.data(), &ethernet, sizeof ethernet);
  if (load.segmented) {
    frame[14] = std::byte{0x45};       // IPv4, header of 20 bytes
    frame[14 + 9] = std::byte{6};      // TCP
    frame[34 + 12] = std::byte{0x50};  // header of 20 bytes
  }
  return frame;
}

virtio::NetHeader make_header(const Load& load) {
  if (!load.segmented) return {};
  return {.flags = virtio::kNetHeaderNeedsCsum,
          .gso_type = virtio::kGsoTcp4,
          .hdr_len = 54,
          .gso_size = 1448,
          .csum_start = 34,
          .csum_offset = 16,
          .num_buffers = 0};
}

/// Frames per second from guest A to guest B.
double switch_rate(TwoGuests& net, const Load& load) {
  const auto begin = steady_clock::now();
  std::uint64_t received = 0;
  while (steady_clock::now() - begin < kInterval) {
    for (int round = 0; round < 16; ++round) {
      net.a->reap(0);
      while (net.a->send_again(0, load.bytes)) continue;
      net.a->flush(0);
      received += net.b->discard(0, load.slots);
    }
  }
  return static_cast<double>(received) / duration<double>(steady_clock::now() - begin).count();
}

/// Copies per second of as many bytes between two rings of buffers.
double copy_rate(const Load& load) {
  const std::size_t all = std::size_t{load.slots} * load.slot_bytes;
  static std::vector<std::byte> from;
  static std::vector<std::byte> to;
  from.resize(all);
  to.resize(all);
  const auto begin = steady_clock::now();
  std::uint64_t copies = 0;
  while (steady_clock::now() - begin < kInterval) {
    for (std::size_t i = 0; i < 16 * load.slots; ++i) {
      const std::size_t at = i % load.slots * load.slot_bytes;
      std::memcpy(to.data() + at, from.data() + at, load.bytes);
      asm volatile("" : : "r"(to.data()) : "memory");
    }
    copies += 16 * load.slots;
  }
  return static_cast<double>(copies) / duration<double>(steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void compare(const Load& load) {
  using virtio::NetFeature;
  FakeGuestConfig sender{.features = {}, .ring_size = load.slots, .buffer_size = load.slot_bytes};
  FakeGuestConfig receiver = sender;
  if (load.segmented) {
    sender.features = {NetFeature::csum, NetFeature::host_tso4};
    receiver.features = {NetFeature::guest_csum, NetFeature::guest_tso4};
  }
  TwoGuests net(sender, receiver, Polling::poll, 1);
  net.a->fill_transmit_buffers(0, make_header(load), make_frame(load));
  std::vector<double> switched;
  std::vector<double> copied;
  std::vector<double> ratios;
  std::uint64_t items = 0;
  std::uint64_t cycles = 0;
  for (int i = 0; i < kPairs; ++i) {
    const auto before = net.worker->stats();
    switched.push_back(switch_rate(net, load));
    const auto after = net.worker->stats();
    items += after.items - before.items;
    cycles += after.busy_cycles - before.busy_cycles;
    copied.push_back(copy_rate(load));
    ratios.push_back(switched.back() / copied.back());
  }
  const auto [low, high] = std::ranges::minmax(ratios);
  fmt::print("{:>6} B   {:>7.2f} Mpps   {:>7.2f} M/s   {:.3f} ({:.3f} to {:.3f})   {:>5.0f}\n", load.bytes,
             median(switched) / 1e6, median(copied) / 1e6, median(ratios), low, high,
             static_cast<double>(cycles) / static_cast<double>(std::max<std::uint64_t>(items, 1)));
}

}  // namespace

int main() {
  run_on(0);
  fmt::print("VM to VM through the switch against a plain copy, medians of {} alternating pairs\n", kPairs);
  fmt::print("   frame         switch     plain copy   ratio (spread)            cycles a frame\n");
  for (const std::uint32_t bytes : {60U, 508U, 1514U}) {
    compare({.bytes = bytes, .slots = 256, .slot_bytes = 2048, .segmented = false});
  }
  compare({.bytes = 65'000, .slots = 64, .slot_bytes = 66'000, .segmented = true});
}

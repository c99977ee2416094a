#include "net/tap_link.h"

#include "base/log.h"

#include <algorithm>

namespace causeway::net {
namespace {

using virtio::NetFeature;

TapOffloads offloads_of(virtio::FeatureSet features) {
  return {.csum = features.has(NetFeature::guest_csum),
          .tso4 = features.has(NetFeature::guest_tso4),
          .tso6 = features.has(NetFeature::guest_tso6),
          .ecn = features.has(NetFeature::guest_ecn),
          .uso = features.has(NetFeature::guest_uso4) && features.has(NetFeature::guest_uso6)};
}

iovec to_iovec(const void* bytes, std::size_t size) {
  return {.iov_base = const_cast<void*>(bytes), .iov_len = size};
}

}  // namespace

Result<std::unique_ptr<TapLink>> TapLink::make(Worker& worker, std::string name, TapDevice tap) {
  std::unique_ptr<TapLink> link(new TapLink(worker, std::move(name), std::move(tap)));
  worker.run([&] { worker.add(*link); });
  return link;
}

TapLink::TapLink(Worker& worker, std::string name, TapDevice tap)
    : Link(worker, std::move(name)), tap_(std::move(tap)), spill_(kMaxFrame) {}

TapLink::~TapLink() {
  worker().run([this] {
    for (std::uint16_t i = 0; i < tap_.queue_count(); ++i) watch(i, false);
    worker().remove(*this);
  });
}

void TapLink::watch(std::uint16_t index, bool wanted) {
  if (watched_[index] == wanted) return;
  watched_[index] = wanted;
  if (!wanted) {
    worker().unwatch(tap_.queue(index));
  } else if (auto watched = worker().watch_level(tap_.queue(index)); !watched) {
    log::error("{}: {}", name(), watched.error().text());
  }
}

void TapLink::receivers_changed() {
  for (std::uint16_t i = 0; i < tap_.queue_count(); ++i) {
    const ReceiveQueue* queue = pairs()[i].receive;
    starved_[i] = false;
    watch(i, queue != nullptr);
    if (queue == nullptr) continue;
    header_size_ = net_header_size(queue->features());
    if (auto set = tap_.set_header_size(header_size_); !set) log::warn("{}: {}", name(), set.error().text());
    // What the driver does not take, the kernel must resolve.
    if (auto set = tap_.set_offloads(offloads_of(queue->features())); !set)
      log::warn("{}: {}", name(), set.error().text());
  }
}

std::uint32_t TapLink::poll() {
  std::uint32_t moved = 0;
  bool fault = false;
  for (std::uint16_t i = 0; i < pair_count(); ++i) {
    Pair& pair = pairs()[i];
    if (pair.transmit != nullptr) {
      if (pair.transmit->has_work()) moved += pair.transmit_enabled ? to_tap(i, pair) : drop_all(*pair.transmit);
      fault = fault || pair.transmit->fault() != virtio::RingFault::none;
    }
    if (pair.receive != nullptr) {
      if (pair.receive_enabled && i < tap_.queue_count()) moved += from_tap(i, *pair.receive);
      fault = fault || pair.receive->fault() != virtio::RingFault::none;
    }
  }
  if (fault) [[unlikely]]
    report_faults();
  return moved;
}

std::uint32_t TapLink::to_tap(std::uint16_t index, Pair& pair) {
  TransmitQueue& queue = *pair.transmit;
  // Pairs beyond the tap's queues share them.
  const auto tap_queue = static_cast<std::uint16_t>(index % tap_.queue_count());
  const auto frames = queue.take();
  for (const Frame& frame : frames) {
    if (frame.length == 0) [[unlikely]] {
      queue.count_bad(frame);
      continue;
    }
    iovecs_.clear();
    iovecs_.push_back(to_iovec(&frame.header, header_size_));
    iovecs_.push_back(to_iovec(&frame.ethernet, sizeof frame.ethernet));
    std::size_t skip = frame.skip + sizeof frame.ethernet;
    for (const auto& segment : frame.segments) {
      if (skip < segment.size()) iovecs_.push_back(segment.subspan(skip, segment.size() - skip).to_iovec());
      skip -= std::min(skip, segment.size());
    }
    const auto written = tap_.write(tap_queue, iovecs_);
    // A tap that is down, or full, loses frames as a cable does.
    if (!written || *written == 0) queue.counters().dropped_no_buffer.add(1);
  }
  queue.complete(frames.size());
  return static_cast<std::uint32_t>(frames.size());
}

std::uint32_t TapLink::longest_frame(const ReceiveQueue& queue) const {
  const auto features = queue.features();
  const bool large = features.has(NetFeature::guest_tso4) || features.has(NetFeature::guest_tso6) ||
                     features.has(NetFeature::guest_uso4);
  return large ? kMaxFrame : mtu_ + std::uint32_t{sizeof(EthernetHeader)} + 4;
}

std::uint32_t TapLink::from_tap(std::uint16_t index, ReceiveQueue& queue) {
  const std::uint32_t longest = longest_frame(queue);
  std::uint32_t moved = 0;
  for (; moved < TransmitQueue::kBatch; ++moved) {
    const auto buffers = queue.prepare(longest);
    starved_[index] = buffers.empty();
    if (buffers.empty()) break;
    iovecs_.assign(buffers.begin(), buffers.end());
    iovecs_.push_back(to_iovec(spill_.data(), spill_.size()));
    const auto got = tap_.read(index, iovecs_);
    if (!got || *got == 0) break;
    queue.commit(*got);
  }
  queue.flush();
  return moved;
}

void TapLink::inject(std::span<const std::byte> frame) {
  const virtio::NetHeader header{};
  const std::array parts{to_iovec(&header, header_size_), to_iovec(frame.data(), frame.size())};
  if (auto written = tap_.write(0, parts); !written) log::warn("{}: {}", name(), written.error().text());
}

bool TapLink::arm() {
  bool work = arm_transmitters();
  for (std::uint16_t i = 0; i < tap_.queue_count(); ++i) {
    ReceiveQueue* queue = pairs()[i].receive;
    if (queue == nullptr) continue;
    // A tap that holds frames for a driver without buffers is always readable: then the driver's kick is awaited.
    if (starved_[i] && queue->arm()) work = true;
    watch(i, !starved_[i] && pairs()[i].receive_enabled);
  }
  return work;
}

void TapLink::disarm() {
  disarm_transmitters();
  for (std::uint16_t i = 0; i < tap_.queue_count(); ++i) {
    if (pairs()[i].receive != nullptr) pairs()[i].receive->disarm();
  }
}

}  // namespace causeway::net

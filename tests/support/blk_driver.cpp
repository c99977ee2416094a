#include "support/blk_driver.h"

#include "base/log.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "support/driver_side.h"

namespace causeway::testing {
namespace {

using memory::FrontendVa, memory::Iova;
using virtio::DriverBuffer, virtio::QueueIndex;

constexpr std::uint64_t kIovaBase = 0x1'0000'0000;
constexpr std::uint64_t kFrontendBase = 0x7f00'0000'0000;
constexpr std::size_t kPage = 4096;

Iova behind(Iova start, std::uint64_t bytes) {
  return Iova(start.value() + bytes);
}

/// Cuts `bytes` at `start` into pieces; an end of its own for what lies behind `first_part`.
std::vector<DriverBuffer> cut(Iova start, std::uint32_t bytes, std::uint32_t first_part, std::uint32_t piece) {
  std::vector<DriverBuffer> buffers;
  for (std::uint32_t at = 0; at < bytes;) {
    const std::uint32_t end = at < first_part ? first_part : bytes;
    const std::uint32_t length = piece == 0 ? end - at : std::min(piece, bytes - at);
    buffers.push_back({.address = behind(start, at), .length = length});
    at += length;
  }
  return buffers;
}

}  // namespace

Result<std::unique_ptr<BlkDriver>> BlkDriver::plug_in(port::Port& port, BlkDriverConfig config) {
  config.features = config.features.with(virtio::Feature::version_1);
  std::unique_ptr<BlkDriver> driver(new BlkDriver(port, config));
  CW_CHECK(port.attach(*driver));
  CW_CHECK(driver->start());
  return driver;
}

Result<void> BlkDriver::start() {
  const std::uint64_t size = config_.queues * (config_.ring_size * (kSlot + 64) + 16 * kPage);
  CW_TRY(auto file, make_memfd("blk-driver", size));
  CW_TRY(auto region, memory::Region::map(Iova(kIovaBase), FrontendVa(kFrontendBase), size, std::move(file), 0));
  CW_TRY(memory_, memory::MemoryMap::make({std::move(region)}));
  CW_CHECK(negotiate(*port_, config_.features, *memory_));
  for (std::uint16_t i = 0; i < config_.queues; ++i) CW_CHECK(start_queue(i));
  using vdpa::Status;
  return port_->set_status(Status::acknowledge | Status::driver | Status::features_ok | Status::driver_ok);
}

Result<void> BlkDriver::move_to(port::Port& port) {
  port_ = &port;
  CW_CHECK(port_->attach(*this));
  CW_CHECK(negotiate(*port_, config_.features, *memory_));
  for (std::uint16_t i = 0; i < config_.queues; ++i) CW_CHECK(give(i));
  return {};
}

Result<void> BlkDriver::start_queue(std::uint16_t index) {
  const auto layout = virtio::layout_of(config_.features);
  CW_TRY(const auto entries, virtio::QueueSize::make(layout, config_.ring_size));
  const auto sizes = virtio::RingAreaSizes::of(layout, entries);
  const virtio::RingConfig ring{.size = entries,
                                .descriptors = allocate(sizes.descriptors.bytes),
                                .available = allocate(sizes.available.bytes),
                                .used = allocate(sizes.used.bytes),
                                .features = config_.features,
                                .start = virtio::QueueState::initial(layout)};
  CW_TRY(auto driver, virtio::DriverQueue::start(ring, memory_));
  CW_TRY(auto kick, KickFd::make());
  CW_TRY(auto call, CallFd::make());
  Queue queue{.config = ring,
              .ring = std::move(driver),
              .kick = kick,
              .call = call,
              .slots = allocate(config_.ring_size * kSlot),
              .free = {},
              .pending = std::vector<Pending>(config_.ring_size)};
  for (std::uint16_t slot = 0; slot < config_.ring_size; ++slot) queue.free.push_back(slot);
  queues_.push_back(std::move(queue));
  return give(index);
}

Result<void> BlkDriver::give(std::uint16_t index) {
  const QueueIndex number{index};
  const virtio::RingConfig& ring = queues_[index].config;
  CW_CHECK(port_->set_queue_size(number, ring.size.entries()));
  CW_CHECK(port_->set_queue_addresses(number, {.kind = port::RingAddressKind::guest,
                                               .descriptors = ring.descriptors.value(),
                                               .available = ring.available.value(),
                                               .used = ring.used.value()}));
  CW_CHECK(port_->set_queue_call(number, queues_[index].call));
  CW_CHECK(port_->start_queue(number, queues_[index].kick));
  return port_->enable_queue(number, true);
}

Iova BlkDriver::allocate(std::size_t bytes) {
  const Iova place(kIovaBase + allocated_);
  allocated_ += (bytes + 63) / 64 * 64;
  return place;
}

memory::GuestSpan BlkDriver::at(Iova iova, std::size_t bytes) const {
  const auto span = memory_->translate(iova, bytes);
  if (!span) throw std::runtime_error("not in the driver's memory");
  return *span;
}

std::optional<std::uint64_t> BlkDriver::submit(std::uint16_t index, const BlkRequest& request) {
  Queue& queue = queues_[index];
  if (queue.free.empty()) return std::nullopt;
  const std::uint16_t slot = queue.free.back();
  const Iova place = behind(queue.slots, slot * kSlot);
  constexpr std::uint32_t kHead = sizeof(virtio::BlkRequestHeader);
  const auto sent = static_cast<std::uint32_t>(request.data.size());
  at(place, kHead)
      .put(0, virtio::BlkRequestHeader{
                  .type = static_cast<std::uint32_t>(request.type), .reserved = 0, .sector = request.sector});
  if (sent != 0) at(behind(place, kHead), sent).write(0, request.data);
  const Iova answer = behind(place, kHead + sent);
  at(answer, request.answer_bytes + 1).put(request.answer_bytes, std::uint8_t{0xee});
  const auto readable = cut(place, kHead + sent, kHead, request.piece);
  const auto writable = cut(answer, request.answer_bytes + 1, request.answer_bytes, request.piece);
  if (!queue.ring.add(readable, writable, slot)) return std::nullopt;
  queue.free.pop_back();
  queue.pending[slot] = {.answer = answer, .answer_bytes = request.answer_bytes};
  if (queue.ring.publish()) kick(index);
  return slot;
}

void BlkDriver::kick(std::uint16_t index) {
  const auto doorbell = doorbells_.find(QueueIndex{index});
  if (doorbell == doorbells_.end()) return queues_[index].kick.signal();
  doorbell->second.ring(doorbell->first);
  ++doorbells_rung_;
}

void BlkDriver::offer_notify_area(QueueIndex queue, const vdpa::NotifyArea& area) {
  if (!config_.rings_doorbells) return;
  if (auto doorbell = Doorbell::map(area)) {
    doorbells_.insert_or_assign(queue, *std::move(doorbell));
  } else {
    log::warn("{}", doorbell.error().text());  // there is the eventfd
  }
}

void BlkDriver::offer_vfio_group(QueueIndex queue, const OwnedFd& group) {
  if (config_.vfio_groups == nullptr) return;
  if (auto share = config_.vfio_groups->share(group)) {
    shares_.insert_or_assign(queue, *std::move(share));
  } else {
    log::warn("queue {}: {}", virtio::number(queue), share.error().text());  // there is the call eventfd
  }
}

std::optional<BlkCompletion> BlkDriver::reap(std::uint16_t index) {
  Queue& queue = queues_[index];
  const auto used = queue.ring.reap();
  if (!used) return std::nullopt;
  const auto slot = static_cast<std::uint16_t>(used->token);
  const Pending& pending = queue.pending[slot];
  const auto answer = at(pending.answer, pending.answer_bytes + 1);
  BlkCompletion completion{.token = slot,
                           .status = static_cast<virtio::BlkStatus>(answer.fetch<std::uint8_t>(pending.answer_bytes)),
                           .data = std::vector<std::byte>(pending.answer_bytes),
                           .written = used->written};
  if (!completion.data.empty()) answer.read(0, completion.data);
  queue.free.push_back(slot);
  return completion;
}

BlkCompletion BlkDriver::await(std::uint16_t queue) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (std::chrono::steady_clock::now() < end) {
    if (auto completion = reap(queue)) return *std::move(completion);
    std::this_thread::yield();
  }
  throw std::runtime_error("no request has ended");
}

BlkCompletion BlkDriver::run(std::uint16_t queue, const BlkRequest& request) {
  if (!submit(queue, request)) throw std::runtime_error("the ring is full");
  return await(queue);
}

}  // namespace causeway::testing

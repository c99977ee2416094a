#include "support/fake_guest.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "support/driver_side.h"

namespace causeway::testing {
namespace {

using memory::FrontendVa, memory::Iova;
using virtio::DriverBuffer, virtio::QueueIndex;

// Guest memory starts where a PC's does not, so that an address taken for an offset is noticed.
constexpr std::uint64_t kIovaBase = 0x1'0000'0000;
constexpr std::uint64_t kFrontendBase = 0x7f00'0000'0000;
constexpr std::size_t kPage = 4096;
constexpr std::uint32_t kControlRing = 16;
constexpr std::size_t kControlBytes = 8 * kPage;

constexpr std::size_t kLives = 2;  // of a queue: memory to restart it once

constexpr std::size_t page_up(std::size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

}  // namespace

Result<std::unique_ptr<FakeGuest>> FakeGuest::plug_in(port::Port& port, FakeGuestConfig config) {
  config.features = config.features.with(virtio::Feature::version_1);
  std::unique_ptr<FakeGuest> guest(new FakeGuest(port, config));
  CW_CHECK(port.attach(*guest));
  CW_CHECK(guest->start());
  return guest;
}

FakeGuest::~FakeGuest() {
  if (port_ != nullptr) port_->detach();
}

Result<void> FakeGuest::start() {
  const std::size_t per_queue = 3 * page_up(std::size_t{16} * config_.ring_size + 64) +
                                page_up(std::size_t{config_.buffer_size} * config_.ring_size) +
                                page_up(std::size_t{16} * 32 * config_.ring_size);
  const std::uint64_t size = page_up(kLives * per_queue * 2 * config_.queue_pairs) + kControlBytes;
  CW_TRY(auto file, make_memfd("fake-guest", size));
  CW_TRY(auto region, memory::Region::map(Iova(kIovaBase), FrontendVa(kFrontendBase), size, std::move(file), 0));
  CW_TRY(memory_, memory::MemoryMap::make({std::move(region)}));
  return set_up();
}

Result<void> FakeGuest::set_up() {
  CW_CHECK(negotiate(*port_, config_.features, *memory_));
  for (std::uint16_t i = 0; i < 2 * config_.queue_pairs; ++i) CW_CHECK(start_queue(i));
  if (config_.features.has(virtio::NetFeature::ctrl_vq)) CW_CHECK(start_control_queue());
  using vdpa::Status;
  return port_->set_status(Status::acknowledge | Status::driver | Status::features_ok | Status::driver_ok);
}

Result<void> FakeGuest::move_to(port::Port& port) {
  port_ = &port;
  CW_CHECK(port_->attach(*this));
  CW_CHECK(negotiate(*port_, config_.features, *memory_));
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    CW_CHECK(give(i, queues_[i]));
    CW_CHECK(port_->enable_queue(QueueIndex{i}, true));
  }
  return control_ ? give(control_index(), *control_) : Result<void>();
}

Result<void> FakeGuest::reboot_to(port::Port& port) {
  port_ = &port;
  CW_CHECK(port_->attach(*this));
  const memory::Region& own = memory_->regions().front();
  memory_->translate(own.iova, own.size)->write(0, std::vector<std::byte>(own.size));
  allocated_ = 0;
  queues_.clear();
  control_.reset();
  return set_up();
}

Iova FakeGuest::allocate(std::size_t bytes) {
  const Iova place(kIovaBase + allocated_);
  allocated_ += page_up(bytes);
  return place;
}

Result<FakeGuest::Queue> FakeGuest::make_queue(std::uint32_t entries, std::size_t buffer_bytes) {
  const auto layout = virtio::layout_of(config_.features);
  CW_TRY(const auto size, virtio::QueueSize::make(layout, entries));
  const auto sizes = virtio::RingAreaSizes::of(layout, size);
  const virtio::RingConfig ring{.size = size,
                                .descriptors = allocate(sizes.descriptors.bytes),
                                .available = allocate(sizes.available.bytes),
                                .used = allocate(sizes.used.bytes),
                                .features = config_.features,
                                .start = virtio::QueueState::initial(layout)};
  CW_TRY(auto driver, virtio::DriverQueue::start(ring, memory_));
  CW_TRY(auto kick, KickFd::make());
  CW_TRY(auto call, CallFd::make());
  return Queue{.config = ring,
               .ring = std::move(driver),
               .kick = kick,
               .call = call,
               .buffers = allocate(buffer_bytes),
               .unused = {}};
}

Result<void> FakeGuest::give(std::uint16_t index, const Queue& queue) {
  const QueueIndex number{index};
  CW_CHECK(port_->set_queue_size(number, queue.config.size.entries()));
  CW_CHECK(port_->set_queue_base(number, queue.config.start));
  CW_CHECK(port_->set_queue_addresses(number, {.kind = port::RingAddressKind::guest,
                                               .descriptors = queue.config.descriptors.value(),
                                               .available = queue.config.available.value(),
                                               .used = queue.config.used.value()}));
  CW_CHECK(port_->set_queue_call(number, queue.call));
  return port_->start_queue(number, queue.kick);
}

Result<void> FakeGuest::start_queue(std::uint16_t index) {
  CW_TRY(auto made, make_queue(config_.ring_size, std::size_t{config_.buffer_size} * config_.ring_size));
  queues_.push_back(std::move(made));
  return fill_and_give(index);
}

Result<void> FakeGuest::reset_queue(std::uint16_t index) {
  CW_CHECK(port_->stop_queue(QueueIndex{index}));
  return {};
}

Result<void> FakeGuest::restart_queue(std::uint16_t index) {
  CW_TRY(queues_[index], make_queue(config_.ring_size, std::size_t{config_.buffer_size} * config_.ring_size));
  return fill_and_give(index);
}

Result<void> FakeGuest::fill_and_give(std::uint16_t index) {
  Queue& queue = queues_[index];
  for (std::uint32_t i = config_.ring_size; i-- > 0;) {
    if (index % 2 == 0) {
      offer(queue, i);
    } else {
      queue.unused.push_back(static_cast<std::uint16_t>(i));
    }
  }
  queue.ring.publish();
  queue.ring.disarm();
  CW_CHECK(give(index, queue));
  return port_->enable_queue(QueueIndex{index}, true);
}

Result<void> FakeGuest::start_control_queue() {
  CW_TRY(auto made, make_queue(kControlRing, kPage));
  control_.emplace(std::move(made));
  return give(control_index(), *control_);
}

std::uint16_t FakeGuest::control_index() const {
  const bool many = config_.features.has(virtio::NetFeature::mq) || config_.features.has(virtio::NetFeature::rss);
  return static_cast<std::uint16_t>(many ? 2 * config_.queue_pairs : 2);
}

void FakeGuest::send_control(std::span<const std::byte> command) {
  const memory::GuestSpan page = *memory_->translate(control_->buffers, kPage);
  page.write(0, command);
  page.put(kPage - 1, std::uint8_t{0xff});
  const DriverBuffer out{.address = control_->buffers, .length = static_cast<std::uint32_t>(command.size())};
  const DriverBuffer in{.address = Iova(control_->buffers.value() + kPage - 1), .length = 1};
  control_->ring.add({&out, 1}, {&in, 1}, 0);
  if (control_->ring.publish()) control_->kick.signal();
}

std::optional<std::uint8_t> FakeGuest::poll_control() {
  if (!control_->ring.reap()) return std::nullopt;
  return memory_->translate(control_->buffers, kPage)->fetch<std::uint8_t>(kPage - 1);
}

Iova FakeGuest::buffer(const Queue& queue, std::uint64_t number) const {
  return Iova(queue.buffers.value() + number * config_.buffer_size);
}

void FakeGuest::offer(Queue& queue, std::uint64_t number) {
  const DriverBuffer whole{.address = buffer(queue, number), .length = config_.buffer_size};
  queue.ring.add({}, {&whole, 1}, number);
}

bool FakeGuest::send(std::uint16_t pair, const virtio::NetHeader& header, std::span<const std::byte> frame) {
  Queue& queue = queues_[2u * pair + 1];
  if (queue.unused.empty()) return false;
  const auto span = memory_->translate(buffer(queue, queue.unused.back()), config_.buffer_size);
  span->put(0, header);
  span->write(kHeader, frame);
  return send_again(pair, static_cast<std::uint32_t>(frame.size()));
}

bool FakeGuest::send_again(std::uint16_t pair, std::uint32_t frame_bytes) {
  Queue& queue = queues_[2u * pair + 1];
  if (queue.unused.empty()) return false;
  const std::uint16_t number = queue.unused.back();
  const DriverBuffer bytes{.address = buffer(queue, number),
                           .length = static_cast<std::uint32_t>(kHeader) + frame_bytes};
  if (!queue.ring.add({&bytes, 1}, {}, number)) return false;
  queue.unused.pop_back();
  return true;
}

void FakeGuest::flush(std::uint16_t pair) {
  Queue& queue = queues_[2u * pair + 1];
  if (queue.ring.publish()) queue.kick.signal();
}

std::uint32_t FakeGuest::reap(std::uint16_t pair) {
  Queue& queue = queues_[2u * pair + 1];
  std::uint32_t count = 0;
  while (const auto used = queue.ring.reap()) {
    queue.unused.push_back(static_cast<std::uint16_t>(used->token));
    ++count;
  }
  return count;
}

std::optional<FakeGuest::Arrival> FakeGuest::receive(std::uint16_t pair) {
  Queue& queue = queues_[2u * pair];
  auto used = queue.ring.reap();
  if (!used) return std::nullopt;
  Arrival arrival;
  for (std::uint16_t part = 0;; ++part) {
    const auto span = memory_->translate(buffer(queue, used->token), config_.buffer_size);
    const std::size_t skip = part == 0 ? kHeader : 0;
    if (part == 0) arrival.header = span->fetch<virtio::NetHeader>(0);
    const std::size_t old = arrival.frame.size();
    const std::size_t bytes = std::min<std::size_t>(used->written, config_.buffer_size);
    arrival.frame.resize(old + bytes - std::min(skip, bytes));
    span->read(skip, std::span(arrival.frame).subspan(old));
    offer(queue, used->token);
    if (part + 1 >= arrival.header.num_buffers) break;
    used = queue.ring.reap();
    if (!used) break;
  }
  if (queue.ring.publish()) queue.kick.signal();
  return arrival;
}

std::uint32_t FakeGuest::discard(std::uint16_t pair, std::uint32_t limit) {
  Queue& queue = queues_[2u * pair];
  std::uint32_t count = 0;
  while (count < limit) {
    const auto used = queue.ring.reap();
    if (!used) break;
    offer(queue, used->token);
    ++count;
  }
  if (count != 0 && queue.ring.publish()) queue.kick.signal();
  return count;
}

Result<void> FakeGuest::stop_and_start(std::uint16_t queue) {
  const QueueIndex number{queue};
  CW_TRY(auto position, port_->stop_queue(number));
  CW_CHECK(port_->set_queue_base(number, std::move(position)));
  return port_->start_queue(number, queues_[queue].kick);
}

void FakeGuest::fill_transmit_buffers(std::uint16_t pair, const virtio::NetHeader& header,
                                      std::span<const std::byte> frame) {
  const Queue& queue = queues_[2u * pair + 1];
  for (const std::uint16_t number : queue.unused) {
    const auto span = memory_->translate(buffer(queue, number), config_.buffer_size);
    span->put(0, header);
    span->write(kHeader, frame);
  }
}

void FakeGuest::truncate_memory() const {
  if (::ftruncate(memory_->regions().front().file->borrow(), 0) != 0) std::abort();
}

bool FakeGuest::is_broken() const {
  return std::ranges::any_of(queues_, [](const Queue& queue) { return queue.ring.is_broken(); });
}

}  // namespace causeway::testing

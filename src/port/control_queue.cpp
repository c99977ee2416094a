#include "port/control_queue.h"

#include <algorithm>
#include <array>

namespace causeway::port {
namespace {

constexpr std::uint16_t kCommandsPerPass = 16;

}  // namespace

Result<std::unique_ptr<ControlQueue>> ControlQueue::start(Loop& loop, vdpa::QueueSetup setup,
                                                          std::shared_ptr<const memory::MemoryMap> map, Handler handler,
                                                          OnFault on_fault) {
  if (!setup.kick) return fail(Errc::not_supported, "a control queue without a kick descriptor");
  CW_TRY(auto ring, virtio::DeviceQueue::start(setup.ring, std::move(map)));
  std::unique_ptr<ControlQueue> queue(
      new ControlQueue(std::move(ring), std::move(setup), std::move(handler), std::move(on_fault)));
  queue->watch_ = loop.watch(queue->kick_->fd(), [self = queue.get()] {
    self->kick_->drain();
    self->serve();
  });
  // The driver may have kicked before we came. Through the kick descriptor, since handlers must not run inside start().
  queue->kick_->signal();
  return queue;
}

ControlQueue::ControlQueue(virtio::DeviceQueue ring, vdpa::QueueSetup setup, Handler handler, OnFault on_fault)
    : ring_(std::move(ring)),
      kick_(std::move(setup.kick)),
      call_(std::move(setup.call)),
      handler_(std::move(handler)),
      on_fault_(std::move(on_fault)) {}

Result<void> ControlQueue::replace_map(std::shared_ptr<const memory::MemoryMap> map) {
  return ring_.replace_map(std::move(map));
}

void ControlQueue::serve() {
  serve_batch();
  if (ring_.fault() != virtio::RingFault::none) {
    watch_.reset();
    on_fault_(Error{.code = Errc::peer_violation, .what = std::string(virtio::text(ring_.fault()))});
    return;
  }
  // More than a batch, or more since: come back through the loop, so that one guest cannot keep the control thread.
  if (ring_.arm()) kick_->signal();
}

void ControlQueue::serve_batch() {
  batch_.clear();
  ring_.take(batch_, kCommandsPerPass);
  for (const virtio::Chain& chain : batch_.chains()) answer(chain);
  if (ring_.publish() && call_) call_->signal();
}

void ControlQueue::answer(const virtio::Chain& chain) {
  if (chain.writable_bytes == 0 || chain.readable_bytes > kMaxCommand) {
    ring_.set_fault(virtio::RingFault::chain_without_use);
    return;
  }
  command_.resize(chain.readable_bytes);
  std::size_t at = 0;
  for (const auto& segment : batch_.readable(chain)) {
    segment.read(0, std::span(command_).subspan(at, segment.size()));
    at += segment.size();
  }
  ring_.use(chain, write(chain, handler_(command_)));
}

/// The ack, and behind it the data, as far as the driver has made room; returns how many bytes it was.
std::uint32_t ControlQueue::write(const virtio::Chain& chain, const vdpa::ControlReply& reply) const {
  const std::array ack{static_cast<std::byte>(reply.ack)};
  std::span<const std::byte> data = reply.data;
  std::uint64_t written = 0;
  for (auto segment : batch_.writable(chain)) {
    if (segment.size() == 0) continue;
    if (written == 0) {
      segment.write(0, ack);
      segment = segment.subspan(1, segment.size() - 1);
      written = 1;
    }
    const std::size_t count = std::min(segment.size(), data.size());
    if (count == 0) continue;  // most answers are the ack alone
    segment.write(0, data.first(count));
    data = data.subspan(count);
    written += count;
  }
  return static_cast<std::uint32_t>(written);
}

}  // namespace causeway::port

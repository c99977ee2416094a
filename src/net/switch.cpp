#include "net/switch.h"

#include <algorithm>
#include <cstring>

namespace causeway::net {

/// One port of a switch.
class SwitchPort final : public Link {
 public:
  SwitchPort(Switch& owner, std::string name) : Link(owner.worker(), std::move(name)), owner_(owner) {
    worker().run([this] { owner_.ports_.push_back(this); });
  }
  ~SwitchPort() override {
    worker().run([this] {
      std::erase(owner_.ports_, this);
      owner_.table_.forget(this);
    });
  }
  void inject(std::span<const std::byte> frame) override;

 private:
  friend class Switch;
  Switch& owner_;
};

namespace {

std::uint32_t seconds_now() {
  using std::chrono::duration_cast, std::chrono::seconds, std::chrono::steady_clock;
  return static_cast<std::uint32_t>(duration_cast<seconds>(steady_clock::now().time_since_epoch()).count());
}

std::optional<std::uint16_t> vlan_of(const Frame& frame) {
  if (frame.ethernet.type() != kEtherTypeVlan) return std::nullopt;
  // The tag lies right behind the Ethernet header, usually in the same segment.
  std::size_t skip = frame.skip + sizeof(EthernetHeader);
  for (const auto& segment : frame.segments) {
    if (skip + 2 <= segment.size()) {
      const auto tag = segment.fetch<std::array<std::uint8_t, 2>>(skip);
      return static_cast<std::uint16_t>((tag[0] << 8 | tag[1]) & 0xfff);
    }
    if (skip < segment.size()) return std::nullopt;
    skip -= segment.size();
  }
  return std::nullopt;
}

}  // namespace

Switch::Switch(Worker& worker, std::string name) : worker_(worker), name_(std::move(name)) {
  worker_.run([this] { worker_.add(*this); });
}

Switch::~Switch() {
  worker_.run([this] { worker_.remove(*this); });
}

std::unique_ptr<Link> Switch::add_port(std::string name) {
  return std::make_unique<SwitchPort>(*this, std::move(name));
}

std::uint32_t Switch::poll() {
  std::uint32_t moved = 0;
  for (SwitchPort* port : ports_) {
    bool fault = false;
    for (std::uint16_t pair = 0; pair < port->pair_count(); ++pair) {
      const auto& queues = port->pairs()[pair];
      if (queues.transmit != nullptr) {
        if (queues.transmit->has_work()) moved += poll_queue(*port, pair);
        fault = fault || queues.transmit->fault() != virtio::RingFault::none;
      }
      fault = fault || (queues.receive != nullptr && queues.receive->fault() != virtio::RingFault::none);
    }
    if (fault) [[unlikely]]
      port->report_faults();
  }
  return moved;
}

std::uint32_t Switch::poll_queue(SwitchPort& from, std::uint16_t pair) {
  auto& queues = from.pairs()[pair];
  TransmitQueue& queue = *queues.transmit;
  if (!queues.transmit_enabled) return Link::drop_all(queue);
  const auto frames = queue.take();
  now_ = seconds_now();
  // Frames in a row for the same receiver are delivered together.
  ReceiveQueue* receiver = nullptr;
  bool follows = false;  // the next frame goes the same way if it has the same addresses
  std::size_t row = 0;
  std::size_t done = 0;
  const auto deliver_row = [&] {
    if (receiver != nullptr) receiver->deliver(frames.subspan(row, done - row));
    receiver = nullptr;
  };
  for (; done < frames.size(); ++done) {
    Frame& frame = frames[done];
    if (follows && frame.length != 0 && frame.ethernet == frames[done - 1].ethernet && is_plain(frame)) [[likely]]
      continue;
    ReceiveQueue* next = nullptr;
    if (frame.length != 0) [[likely]] {
      from.steer(frame, pair);
      if (!frame.ethernet.source.is_multicast()) table_.learn(frame.ethernet.source, &from, now_);
      next = direct_receiver(from, frame, follows);
    }
    if (next != nullptr && next == receiver) continue;
    deliver_row();
    row = done;
    receiver = next;
    if (next != nullptr) continue;
    follows = false;
    if (frame.length == 0) {
      queue.count_bad(frame);
    } else if (forward(from, frame, queue.counters()) == Delivery::wait) {
      break;
    }
  }
  deliver_row();
  for (SwitchPort* port : ports_) port->flush_receivers();
  queue.complete(done);
  return static_cast<std::uint32_t>(done);
}

ReceiveQueue* Switch::direct_receiver(SwitchPort& from, Frame& frame, bool& follows) {
  follows = false;
  if (frame.ethernet.destination.is_multicast()) return nullptr;
  auto* const to = static_cast<SwitchPort*>(table_.find(frame.ethernet.destination, now_));
  if (to == nullptr || to == &from) return nullptr;
  bool wait = false;
  ReceiveQueue* const queue = to->receiver_for(frame, wait);
  if (queue == nullptr || needs_resolution(frame.header, queue->features())) return nullptr;
  if (!to->filter().accepts(frame.ethernet, vlan_of(frame))) return nullptr;
  frame.hash = to->hash();
  // A look at the addresses is enough where nothing else decides: several queues, a tag.
  follows = to->has_one_way() && !from.has_steering() && frame.ethernet.type() != kEtherTypeVlan;
  return queue;
}

Delivery Switch::forward(SwitchPort& from, Frame& frame, QueueCounters& sender) {
  if (frame.ethernet.destination.is_multicast()) return flood(&from, frame, sender);
  void* const known = table_.find(frame.ethernet.destination, now_);
  if (known == nullptr) return flood(&from, frame, sender);
  if (known != &from) return deliver(*static_cast<SwitchPort*>(known), frame, sender);
  // A frame to an address on its own port goes nowhere.
  sender.dropped_no_receiver.add(1);
  return Delivery::done;
}

Delivery Switch::flood(const SwitchPort* from, Frame& frame, QueueCounters& sender) {
  if (ports_.size() == 1) sender.dropped_no_receiver.add(1);
  // Nobody gets it before all can: a frame that waits is offered again as a whole.
  for (SwitchPort* port : ports_) {
    bool wait = false;
    if (port != from) port->receiver_for(frame, wait);
    if (wait) return Delivery::wait;
  }
  for (SwitchPort* port : ports_) {
    if (port != from) deliver(*port, frame, sender);
  }
  return Delivery::done;
}

Delivery Switch::deliver(SwitchPort& to, Frame& frame, QueueCounters& sender) {
  bool wait = false;
  ReceiveQueue* const queue = to.receiver_for(frame, wait);
  if (wait) return Delivery::wait;
  if (queue == nullptr) {
    to.count_lost(sender);
    return Delivery::done;
  }
  frame.hash = to.hash();
  if (!to.filter().accepts(frame.ethernet, vlan_of(frame))) {
    queue->counters().dropped_filtered.add(1);
    return Delivery::done;
  }
  if (needs_resolution(frame.header, queue->features())) [[unlikely]] {
    deliver_resolved(*queue, frame, sender);
  } else {
    queue->deliver(frame);
  }
  return Delivery::done;
}

void Switch::deliver_resolved(ReceiveQueue& queue, const Frame& frame, QueueCounters& sender) {
  linear_.resize(frame.length);
  std::size_t at = 0;
  std::size_t skip = frame.skip;
  for (const auto& segment : frame.segments) {
    const auto part = segment.subspan(skip, segment.size() - skip);
    part.read(0, std::span(linear_).subspan(at, part.size()));
    at += part.size();
    skip = 0;
  }
  const bool resolved = resolver_.resolve(frame.header, linear_, queue.features(),
                                          [&](const virtio::NetHeader& header, std::span<const std::byte> bytes) {
                                            queue.deliver(header, bytes, frame.hash);
                                          });
  (resolved ? queue.counters().resolved_in_software : sender.dropped_bad_header).add(1);
}

bool Switch::arm() {
  bool work = false;
  for (SwitchPort* port : ports_) work = port->arm_transmitters() || work;
  return work;
}

void Switch::disarm() {
  for (SwitchPort* port : ports_) port->disarm_transmitters();
}

void SwitchPort::inject(std::span<const std::byte> frame) {
  for (SwitchPort* port : owner_.ports_) {
    if (port == this) continue;
    for (auto& pair : port->pairs()) {
      if (pair.receive == nullptr || !pair.receive_enabled) continue;
      pair.receive->deliver(virtio::NetHeader{}, frame);
      pair.receive->flush();
      break;
    }
  }
  EthernetHeader ethernet;
  std::memcpy(&ethernet, frame.data(), sizeof ethernet);
  owner_.table_.learn(ethernet.source, this, seconds_now());
}

}  // namespace causeway::net

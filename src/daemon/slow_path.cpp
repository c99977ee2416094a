#include "daemon/slow_path.h"

#include "base/log.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::daemon {
namespace {

namespace api = control::v1;
using std::chrono::steady_clock;
using Given = net::Link::Given;

constexpr std::size_t kMessageBytes = std::size_t{1} << 20;

bool is_nic(const PortEntry& entry, std::string_view device) {
  return std::ranges::find(entry.nics, device) != entry.nics.end();
}

Result<const PortEntry*> find_net(const Graph& graph, std::string_view name) {
  CW_TRY(const PortEntry* entry, graph.find(name));
  if (!entry->nics.empty()) return entry;
  return fail(Errc::not_supported, fmt::format("port {} has no software network device", name));
}

std::string_view text(Given given) {
  switch (given) {
    case Given::done:
      return "delivered";
    case Given::no_queue:
      return "no receive queue is enabled in software";
    case Given::no_buffer:
      return "the guest has offered too few receive buffers";
    case Given::too_long:
      return "it is longer than the guest's receive buffers";
    case Given::filtered:
      return "the guest does not want it: its address or VLAN";
  }
  return {};
}

Result<void> check(const std::vector<std::string>& frames) {
  if (frames.empty()) return fail(Errc::invalid_value, "there are no frames");
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const std::size_t size = frames[i].size();
    if (size >= sizeof(net::EthernetHeader) && size <= net::kMaxFrame) continue;
    return fail(Errc::invalid_value, fmt::format("frame {} has {} bytes; expected {} to {}", i + 1, size,
                                                 sizeof(net::EthernetHeader), net::kMaxFrame));
  }
  return {};
}

}  // namespace

// --- Injection ------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<Injection>> Injection::begin(const Graph& graph, std::string_view name,
                                                    std::vector<std::string> frames) {
  CW_TRY(const PortEntry* entry, find_net(graph, name));
  const auto where = fmt::format("port {}", name);
  if (auto checked = check(frames); !checked) return fail(std::move(checked).error().context(where));
  std::unique_ptr<Injection> injection(new Injection(*entry->port, *entry->link, std::move(frames)));
  if (auto prepared = injection->prepare(*entry); !prepared) return fail(std::move(prepared).error().context(where));
  return injection;
}

Injection::~Injection() {
  give_back();
}

/// Sees to it that a receive queue is in software.
Result<void> Injection::prepare(const PortEntry& entry) {
  const auto report = port_.report();
  std::optional<port::QueueReport> first;
  for (const auto& queue : report.queues) {
    const bool receives = !queue.is_control && queue.index % 2 == 0 && queue.index < 2U * entry.config.queue_pairs;
    if (!receives || !queue.started || queue.failed || !queue.enabled) continue;
    if (is_nic(entry, queue.device)) return {};
    if (!first) first = queue;
  }
  if (!first) return fail(Errc::gone, "no receive queue runs: its guest is not there, or its driver is not");
  if (!is_nic(entry, report.devices.back())) {
    return fail(Errc::not_supported, fmt::format("its last device, '{}', is no software", report.devices.back()));
  }
  const port::QueueIndex index{first->index};
  CW_TRY(const bool is_borrowed, port_.borrow(index));
  if (!is_borrowed) return {};
  borrowed_ = index;
  response_.set_borrowed(first->device);
  return {};
}

bool Injection::go_on() {
  while (next_ < frames_.size()) {
    auto given = Given::no_queue;
    link_.worker().run([&] { given = link_.give(std::as_writable_bytes(std::span(frames_[next_]))); });
    const bool may_change = given == Given::no_queue || given == Given::no_buffer;
    if (may_change && steady_clock::now() - progress_ < kPatience) return false;
    if (given == Given::done) {
      response_.set_delivered(response_.delivered() + 1);
    } else {
      lose(text(given));
    }
    ++next_;
    // After one that was waited for in vain, no other is.
    if (!may_change) progress_ = steady_clock::now();
  }
  return true;
}

void Injection::lose(std::string_view why) {
  if (response_.lost() == 0) {
    response_.set_why_lost(fmt::format("frame {}, of {} bytes: {}", next_ + 1, frames_[next_].size(), why));
  }
  response_.set_lost(response_.lost() + 1);
}

void Injection::give_back() {
  const auto queue = std::exchange(borrowed_, std::nullopt);
  if (!queue) return;
  if (auto returned = port_.give_back(*queue); !returned) {
    response_.set_not_returned(returned.error().text());
    log::warn("port {}: {}", port_.name(), returned.error().text());
  }
}

api::InjectResponse Injection::end() {
  give_back();
  return response_;
}

// --- Capture --------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<PortCapture>> PortCapture::begin(const Graph& graph, const api::CaptureRequest& request) {
  CW_TRY(const PortEntry* entry, find_net(graph, request.name()));
  net::Link& link = *entry->link;
  bool is_busy = false;
  link.worker().run([&] {
    is_busy = link.is_captured();
    if (!is_busy) link.start_capture(request.longest() == 0 ? net::kMaxFrame : request.longest());
  });
  if (is_busy) return fail(Errc::busy, fmt::format("port {} is captured already", request.name()));
  return std::unique_ptr<PortCapture>(new PortCapture(*entry));
}

PortCapture::~PortCapture() {
  end();
}

/// Queues that run where their frames cannot be seen.
std::vector<std::uint32_t> PortCapture::unseen() const {
  std::vector<std::uint32_t> queues;
  for (const auto& queue : entry_.port->report().queues) {
    if (queue.started && !queue.is_control && !is_nic(entry_, queue.device)) queues.push_back(queue.index);
  }
  return queues;
}

api::CaptureBatch PortCapture::empty() const {
  api::CaptureBatch batch;
  batch.set_captured(captured_);
  batch.set_lost(lost_);
  for (const auto queue : unseen_) batch.add_unseen(queue);
  return batch;
}

std::vector<api::CaptureBatch> PortCapture::take() {
  net::Capture::Batch fresh;
  entry_.link->worker().run([&] { fresh = entry_.link->take_captured(); });
  auto now_unseen = unseen();
  const bool is_news = std::exchange(is_first_, false) || now_unseen != unseen_ || fresh.lost != 0;
  unseen_ = std::move(now_unseen);
  lost_ += fresh.lost;
  std::vector<api::CaptureBatch> batches;
  std::size_t bytes = kMessageBytes;
  for (auto& frame : fresh.frames) {
    if (bytes >= kMessageBytes) {
      batches.push_back(empty());
      bytes = 0;
    }
    bytes += frame.bytes.size();
    api::CapturedFrame& to = *batches.back().add_frames();
    using std::chrono::duration_cast, std::chrono::nanoseconds;
    to.set_time_ns(static_cast<std::uint64_t>(duration_cast<nanoseconds>(frame.at.time_since_epoch()).count()));
    to.set_length(frame.length);
    auto& data = *to.mutable_data();
    data.resize(frame.bytes.size());
    std::ranges::copy(frame.bytes, std::as_writable_bytes(std::span(data)).begin());
    batches.back().set_captured(++captured_);
  }
  if (batches.empty() && is_news) batches.push_back(empty());
  return batches;
}

api::CaptureBatch PortCapture::end() {
  if (std::exchange(is_running_, false)) {
    entry_.link->worker().run([this] { entry_.link->stop_capture(); });
  }
  return empty();
}

}  // namespace causeway::daemon

#include "blk/disk_queue.h"

#include <sys/timerfd.h>

#include <algorithm>
#include <array>

namespace causeway::blk {
namespace {

using virtio::BlkStatus;

/// Bytes of operations at which a pass hands them over and publishes what is done, instead of at its end: so the driver
/// works on the first of many large requests while the storage works on the others.
constexpr std::uint64_t kHandOverAt = 128 << 10;

Result<OwnedFd> make_timer() {
  const int raw = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (raw < 0) return causeway::fail(system_error("timerfd_create"));
  return OwnedFd::adopt(raw);
}

void set_timer(const OwnedFd& timer, RateLimiter::Clock::duration delay) {
  const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(delay).count();
  itimerspec when{};
  when.it_value.tv_sec = nanoseconds / 1'000'000'000;
  when.it_value.tv_nsec = nanoseconds % 1'000'000'000;
  ::timerfd_settime(timer.borrow(), 0, &when, nullptr);
}

bool intersect(const Operation& a, const Operation& b) {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

}  // namespace

Result<std::unique_ptr<DiskQueue>> DiskQueue::start(const vdpa::QueueSetup& setup,
                                                    std::shared_ptr<const memory::MemoryMap> map, Volume& volume,
                                                    const SerialNumber& serial, DriverChoices choices,
                                                    QueueCounters& counters, Events events) {
  CW_TRY(auto ring, virtio::DeviceQueue::start(setup.ring, std::move(map), virtio::Remember::in_flight));
  CW_TRY(auto channel, volume.store().open_channel(setup.ring.size.entries()));
  std::unique_ptr<DiskQueue> queue(
      new DiskQueue(std::move(ring), setup, std::move(channel), volume, serial, choices, counters, std::move(events)));
  if (volume.limiter().is_limited()) {
    CW_TRY(queue->timer_, make_timer());
  }
  queue->ring_.disarm();
  return queue;
}

DiskQueue::DiskQueue(virtio::DeviceQueue ring, const vdpa::QueueSetup& setup, std::unique_ptr<Channel> channel,
                     Volume& volume, const SerialNumber& serial, DriverChoices choices, QueueCounters& counters,
                     Events events)
    : ring_(std::move(ring)),
      kick_(setup.kick),
      call_(setup.call),
      channel_(std::move(channel)),
      volume_(volume),
      serial_(serial),
      choices_(choices),
      counters_(counters),
      events_(std::move(events)),
      is_translated_(setup.is_translated),
      enabled_(setup.enabled),
      requests_(setup.ring.size.entries()) {
  for (Request& request : requests_) free_.push_back(&request);
  running_.reserve(requests_.size());
}

Result<void> DiskQueue::watch(Worker& worker) const {
  if (kick_) CW_CHECK(worker.watch_event(kick_->fd()));
  if (timer_) CW_CHECK(worker.watch_event(*timer_));
  if (channel_->event() != nullptr) CW_CHECK(worker.watch_event(*channel_->event()));
  return {};
}

void DiskQueue::unwatch(Worker& worker) const {
  if (kick_) worker.unwatch(kick_->fd());
  if (timer_) worker.unwatch(*timer_);
  if (channel_->event() != nullptr) worker.unwatch(*channel_->event());
}

std::uint32_t DiskQueue::poll() {
  std::uint32_t moved = 0;
  if (!running_.empty()) moved += finish_done();
  if (enabled_) {
    if (!waiting_.empty()) moved += start_waiting();
    moved += take_new();
  }
  hand_over();
  return moved;
}

void DiskQueue::hand_over() {
  begun_bytes_ = 0;
  is_handed_over_ = channel_->flush();
  if (!running_.empty()) finish_done();
  if (is_unpublished_) publish();
}

RequestRules DiskQueue::rules() const {
  return {.capacity = volume_.store().bytes(),
          .block_size = volume_.store().block_size(),
          .is_read_only = choices_.read_only,
          .discards = choices_.discards,
          .writes_zeroes = choices_.writes_zeroes};
}

std::uint32_t DiskQueue::take_new() {
  if (free_.empty() || !ring_.has_available()) return 0;
  batch_.clear();
  const auto room = std::min<std::size_t>(free_.size(), virtio::ChainBatch::kMaxChains);
  const std::uint16_t count = ring_.take(batch_, static_cast<std::uint16_t>(room));
  if (auto misses = ring_.take_misses(); !misses.empty()) events_.on_miss(std::move(misses), ring_.renewals());
  if (is_translated_) counters_.translated.add(batch_.segment_count());
  const RequestRules now = rules();
  for (std::uint16_t i = 0; i < count && ring_.fault() == virtio::RingFault::none; ++i) {
    accept(batch_[i], now);
    if (begun_bytes_ >= kHandOverAt) hand_over();
  }
  if (ring_.fault() != virtio::RingFault::none) fail(ring_.fault());
  return count;
}

void DiskQueue::accept(const virtio::Chain& chain, const RequestRules& rules) {
  Request& request = *free_.back();
  free_.pop_back();
  if (chain.again != 0) counters_.again.add(1);
  switch (read_request(batch_, chain, rules, serial_, request)) {
    case Verdict::operate:
      if (waiting_.empty() && may_start(request)) {
        start_operation(request);
      } else {
        waiting_.push_back(&request);
      }
      return;
    case Verdict::done:
      return end(request, BlkStatus::ok);
    case Verdict::io_error:
      return end(request, BlkStatus::ioerr);
    case Verdict::unsupported:
      return end(request, BlkStatus::unsupp);
    case Verdict::unusable:
      free_.push_back(&request);
      ring_.set_fault(virtio::RingFault::chain_without_use);
      return;
  }
}

std::uint32_t DiskQueue::start_waiting() {
  std::uint32_t started = 0;
  for (; !waiting_.empty() && may_start(*waiting_.front()); ++started) {
    start_operation(*waiting_.front());
    waiting_.pop_front();
  }
  return started;
}

bool DiskQueue::may_start(const Request& request) {
  if (request.changes && !changing_.is_free(request.offset, request.length) && overlaps(request)) return false;
  return ignores_limits_ || !volume_.limiter().is_limited() || is_admitted(request);
}

bool DiskQueue::overlaps(const Operation& operation) const {
  return std::ranges::any_of(
      running_, [&operation](const Request* other) { return other->changes && intersect(*other, operation); });
}

bool DiskQueue::is_admitted(const Request& request) {
  const auto wait = volume_.limiter().admit(request.length, RateLimiter::Clock::now());
  if (!wait) return true;
  counters_.throttled.add(1);
  set_timer(*timer_, *wait);
  return false;
}

void DiskQueue::start_operation(Request& request) {
  if (request.changes) changing_.enter(request.offset, request.length);
  request.place = running_.size();
  running_.push_back(&request);
  begun_bytes_ += request.length;
  channel_->submit(request);
}

std::uint32_t DiskQueue::finish_done() {
  std::uint32_t finished = 0;
  while (Operation* const operation = channel_->reap()) {
    auto& request = static_cast<Request&>(*operation);
    ++finished;
    const bool failed = request.error != 0;
    if (failed) volume_.report(request);
    if (!failed && request.changes && !choices_.writeback && !request.is_flushing) {
      request.is_flushing = true;
      request.kind = Operation::Kind::flush;
      channel_->submit(request);
      continue;
    }
    running_.back()->place = request.place;
    running_[request.place] = running_.back();
    running_.pop_back();
    if (request.changes) changing_.leave(request.offset, request.length);
    end(request, failed ? BlkStatus::ioerr : BlkStatus::ok);
  }
  return finished;
}

void DiskQueue::end(Request& request, BlkStatus status) {
  free_.push_back(&request);
  // Of a broken ring nothing is told any more.
  if (ring_.fault() != virtio::RingFault::none) return;
  request.status.put(0, static_cast<std::uint8_t>(status));
  ring_.use(request.chain, request.used_length(status));
  is_unpublished_ = true;
  count(request, status);
}

void DiskQueue::count(const Request& request, BlkStatus status) {
  if (status != BlkStatus::ok) return counters_.errors.add(1);
  if (request.changes && !request.data.empty()) {
    counters_.writes.add(1);
    counters_.written_bytes.add(request.length);
  } else if (request.changes) {
    counters_.discards.add(1);
  } else if (request.kind == Operation::Kind::read && !request.data.empty()) {
    counters_.reads.add(1);
    counters_.read_bytes.add(request.length);
  } else if (request.kind == Operation::Kind::flush) {
    counters_.flushes.add(1);
  }
}

void DiskQueue::publish() {
  is_unpublished_ = false;
  if (ring_.fault() != virtio::RingFault::none || !ring_.publish() || !call_) return;
  counters_.calls.add(1);
  call_->signal();
}

void DiskQueue::fail(virtio::RingFault fault) {
  enabled_ = false;
  // What waits will never be answered; what runs ends unheard.
  for (Request* request : waiting_) free_.push_back(request);
  waiting_.clear();
  events_.on_fault(fault);
}

bool DiskQueue::arm() {
  if (!is_handed_over_ || (!running_.empty() && channel_->arm())) return true;
  return enabled_ && !free_.empty() && ring_.arm();
}

void DiskQueue::disarm() {
  channel_->disarm();
  ring_.disarm();
}

void DiskQueue::finish_all(bool with_waiting) {
  ignores_limits_ = with_waiting;
  while (!running_.empty() || (with_waiting && !waiting_.empty())) {
    if (with_waiting) start_waiting();
    channel_->flush();
    if (finish_done() == 0) channel_->wait();
  }
  ignores_limits_ = false;
  if (is_unpublished_) publish();
}

Result<void> DiskQueue::replace_map(std::shared_ptr<const memory::MemoryMap> map, bool is_smaller) {
  if (is_smaller) finish_all(true);
  return ring_.replace_map(std::move(map));
}

virtio::QueueState DiskQueue::stop(vdpa::StopMode mode) {
  finish_all(mode == vdpa::StopMode::drain);
  std::vector<virtio::Chain> outstanding;
  for (const Request* request : waiting_) outstanding.push_back(request->chain);
  return ring_.state(outstanding);
}

}  // namespace causeway::blk

#include "virtio_pci/doorbells.h"

#include <sys/timerfd.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace causeway::virtio_pci {
namespace {

/// What lies in a page that nobody has written to since it was looked at; no queue has this number.
constexpr std::uint16_t kQuiet = 0xffff;

}  // namespace

Result<std::unique_ptr<Doorbells>> Doorbells::make(Worker& worker, const OwnedFd& file, std::uint64_t offset,
                                                   std::uint16_t queues) {
  CW_TRY(auto pages, Mapping::map(file, offset, queues * page_size()));
  const int raw = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (raw < 0) return fail(system_error("timerfd_create"));
  std::unique_ptr<Doorbells> bells(new Doorbells(worker, OwnedFd::adopt(raw), std::move(pages), queues));
  Result<void> watched;
  worker.run([&] {
    watched = worker.watch_event(bells->timer_);
    worker.add(*bells);
  });
  CW_CHECK(watched);
  return bells;
}

Doorbells::Doorbells(Worker& worker, OwnedFd timer, std::shared_ptr<const Mapping> pages, std::uint16_t queues)
    : worker_(worker), timer_(std::move(timer)), pages_(std::move(pages)), bells_(queues) {
  for (std::size_t i = 0; i < bells_.size(); ++i) page(i).store(0, kQuiet, std::memory_order_relaxed);
}

Doorbells::~Doorbells() {
  worker_.run([this] {
    worker_.remove(*this);
    worker_.unwatch(timer_);
  });
}

memory::GuestSpan Doorbells::page(std::size_t queue) const {
  return memory::GuestSpan::over({pages_->data() + queue * page_size(), page_size()});
}

void Doorbells::set(std::uint16_t queue, std::optional<KickFd> kick) {
  const bool watched = kick.has_value();
  worker_.run([&] { bells_[queue].kick = std::move(kick); });
  watch(queue, watched);
}

void Doorbells::watch(std::uint16_t queue, bool watched) {
  // Only this thread writes these.
  if (bells_[queue].watched.exchange(watched, std::memory_order_relaxed) == watched) return;
  const unsigned count = watched_.load(std::memory_order_relaxed);
  watched_.store(watched ? count + 1 : count - 1, std::memory_order_seq_cst);
  // A worker that has gone to sleep with none to look at has set no timer: this wakes it. One that is going to has seen
  // the store above, or sees this timer.
  if (watched) nap(std::chrono::nanoseconds(1));
}

std::uint32_t Doorbells::poll() {
  if (watched_.load(std::memory_order_relaxed) == 0) return 0;
  for (std::size_t i = 0; i < bells_.size(); ++i) {
    Bell& bell = bells_[i];
    if (!bell.watched.load(std::memory_order_relaxed) || !bell.kick) continue;
    if (page(i).load<std::uint16_t>(0, std::memory_order_acquire) == kQuiet) continue;
    // Quiet first: a store that comes between the two is followed by this kick, and the ring is looked at after it.
    page(i).store(0, kQuiet, std::memory_order_seq_cst);
    bell.kick->signal();
    bell.rung.fetch_add(1, std::memory_order_relaxed);
    nap_ = kFirstNap;
  }
  // Doorbells are no items: they do not keep the worker awake, the queues that they wake do.
  return 0;
}

bool Doorbells::arm() {
  if (watched_.load(std::memory_order_seq_cst) == 0) return false;
  nap(nap_);
  nap_ = std::min(2 * nap_, kLongestNap);
  return false;
}

void Doorbells::nap(std::chrono::nanoseconds time) const {
  itimerspec wanted{};
  wanted.it_value.tv_nsec = time.count();
  ::timerfd_settime(timer_.borrow(), 0, &wanted, nullptr);
}

}  // namespace causeway::virtio_pci

#include "base/worker.h"

#include "base/cycles.h"
#include "base/log.h"

#include <fmt/format.h>

#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace causeway {
namespace {

// An epoll entry carries the descriptor's number and whether it is an eventfd to be drained.
constexpr std::uint64_t kDrain = std::uint64_t{1} << 32;

/// How long a pass of a worker may take before it is worth sleeping until it ends.
constexpr std::chrono::microseconds kPass{20};

/// Adds to a counter that only this thread writes.
void bump(std::atomic<std::uint64_t>& counter, std::uint64_t by) {
  counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

/// Returns what the eventfd held.
std::uint64_t drain_raw(int fd) {
  std::uint64_t count = 0;
  return ::read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

}  // namespace

Result<std::unique_ptr<Worker>> Worker::start(WorkerConfig config) {
  CW_TRY(auto wake, EventFd::make());
  const int raw = ::epoll_create1(EPOLL_CLOEXEC);
  if (raw < 0) return fail(system_error(fmt::format("worker {}: epoll_create1", config.name)));
  std::unique_ptr<Worker> worker(new Worker(std::move(config), std::move(wake), OwnedFd::adopt(raw)));
  CW_CHECK(worker->watch(worker->wake_.fd(), true));
  worker->thread_ = std::jthread([self = worker.get()](const std::stop_token& stop) { self->loop(stop); });
  return worker;
}

Worker::Worker(WorkerConfig config, EventFd wake, OwnedFd epoll)
    : config_(std::move(config)), wake_(std::move(wake)), epoll_(std::move(epoll)) {}

Worker::~Worker() {
  thread_.request_stop();
  wake_.signal();
}

void Worker::run(std::move_only_function<void()> change) {
  std::uint64_t ticket = 0;
  {
    const std::scoped_lock lock(mail_mutex_);
    mail_.push_back(&change);
    ticket = ++mail_sent_;
    // With `is_asleep_` in one order for both threads: either we see that it sleeps, or it sees the mail.
    has_mail_.store(true, std::memory_order_seq_cst);
  }
  if (is_asleep_.load(std::memory_order_seq_cst)) wake_.signal();
  await_handled(ticket);
}

void Worker::await_handled(std::uint64_t ticket) {
  const auto is_handled = [&] { return mail_handled_.load(std::memory_order_acquire) >= ticket; };
  // A worker that is awake comes by within one pass, which is less than it takes to go to sleep here.
  const auto end = std::chrono::steady_clock::now() + kPass;
  while (!is_asleep_.load(std::memory_order_relaxed) && std::chrono::steady_clock::now() < end) {
    if (is_handled()) return;
    relax();
  }
  std::unique_lock lock(mail_mutex_);
  mail_done_.wait(lock, is_handled);
}

void Worker::run_anywhere(std::move_only_function<bool()> change) {
  bool has_work = false;
  {
    const std::unique_lock awake(awake_mutex_, std::try_to_lock);
    // One that is awake polls next in any case.
    if (!awake.owns_lock()) return run([&] { change(); });
    has_work = change();
  }
  if (has_work) wake_.signal();
}

void Worker::add(Task& task) {
  tasks_.push_back(&task);
}
void Worker::remove(Task& task) {
  std::erase(tasks_, &task);
}

Result<void> Worker::watch(const OwnedFd& fd, bool drain) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = static_cast<std::uint64_t>(fd.borrow()) | (drain ? kDrain : 0);
  if (::epoll_ctl(epoll_.borrow(), EPOLL_CTL_ADD, fd.borrow(), &event) != 0) {
    return fail(system_error(fmt::format("worker {}: watch a descriptor", config_.name)));
  }
  return {};
}

Result<void> Worker::watch_event(const OwnedFd& fd, Counter* signals) {
  CW_CHECK(watch(fd, true));
  if (signals != nullptr) counted_.insert_or_assign(fd.borrow(), signals);
  return {};
}
Result<void> Worker::watch_level(const OwnedFd& fd) {
  return watch(fd, false);
}
void Worker::unwatch(const OwnedFd& fd) {
  ::epoll_ctl(epoll_.borrow(), EPOLL_CTL_DEL, fd.borrow(), nullptr);
  counted_.erase(fd.borrow());
}

WorkerStats Worker::stats() const {
  return {.items = items_.load(std::memory_order_relaxed),
          .busy_cycles = busy_cycles_.load(std::memory_order_relaxed),
          .sleeps = sleeps_.load(std::memory_order_relaxed)};
}

void Worker::pin() const {
  ::pthread_setname_np(::pthread_self(), config_.name.substr(0, 15).c_str());
  if (!config_.cpu) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(*config_.cpu, &set);
  if (const int error = ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set); error != 0) {
    log::warn("worker {}: cannot run on cpu {}: {}", config_.name, *config_.cpu,
              system_error("pthread_setaffinity_np", error).text());
  }
}

void Worker::loop(const std::stop_token& stop) {
  pin();
  using Clock = std::chrono::steady_clock;
  auto idle_since = Clock::now();
  bool idle = false;
  std::unique_lock awake(awake_mutex_);
  while (!stop.stop_requested()) {
    if (has_mail_.load(std::memory_order_acquire)) run_mail();
    if (poll_all() != 0) {
      idle = false;
      continue;
    }
    // A look at a ring takes its cache line away from the driver that is writing it: look less often, find more.
    relax();
    if (config_.polling == Polling::poll && !resting_) continue;
    if (config_.polling == Polling::adaptive && !resting_) {
      const auto now = Clock::now();
      if (!idle) {
        idle = true;
        idle_since = now;
      }
      if (now - idle_since < config_.spin) continue;
    }
    sleep_until_work(awake);
    idle = false;
  }
  run_mail();
}

std::uint32_t Worker::poll_all() {
  std::uint32_t moved = 0;
  std::uint64_t begin = read_cycles();
  for (Task* task : tasks_) {
    const std::uint32_t count = task->poll();
    const std::uint64_t end = read_cycles();
    if (count != 0) {
      bump(items_, count);
      bump(busy_cycles_, end - begin);
      moved += count;
    }
    begin = end;
  }
  return moved;
}

void Worker::sleep_until_work(std::unique_lock<std::mutex>& awake) {
  std::size_t armed = 0;
  bool work = false;
  while (armed < tasks_.size() && !work) work = tasks_[armed++]->arm();
  is_asleep_.store(true, std::memory_order_seq_cst);
  if (!work && !has_mail_.load(std::memory_order_seq_cst)) {
    bump(sleeps_, 1);
    std::array<epoll_event, 64> events{};
    awake.unlock();
    const int count = ::epoll_wait(epoll_.borrow(), events.data(), static_cast<int>(events.size()), -1);
    awake.lock();
    for (int i = 0; i < count; ++i) {
      const auto& event = events[static_cast<std::size_t>(i)];
      if ((event.data.u64 & kDrain) != 0) drain(static_cast<int>(event.data.u64 & ~kDrain));
    }
  }
  is_asleep_.store(false, std::memory_order_relaxed);
  for (std::size_t i = 0; i < armed; ++i) tasks_[i]->disarm();
}

void Worker::drain(int fd) {
  const std::uint64_t signals = drain_raw(fd);
  if (const auto found = counted_.find(fd); found != counted_.end()) found->second->add(signals);
}

void Worker::run_mail() {
  std::vector<std::move_only_function<void()>*> mail;
  {
    const std::scoped_lock lock(mail_mutex_);
    mail.swap(mail_);
    has_mail_.store(false, std::memory_order_relaxed);
  }
  for (auto* change : mail) (*change)();
  {
    const std::scoped_lock lock(mail_mutex_);
    mail_handled_.fetch_add(mail.size(), std::memory_order_release);
  }
  // Without the lock: who wakes up would only wait for it.
  mail_done_.notify_all();
}

}  // namespace causeway

// Worker threads: each runs its tasks to completion, in a loop, and shares nothing with the others.
#pragma once

#include "base/counter.h"
#include "base/event_fd.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace causeway {

/// What a worker runs. All members are called on the worker's thread.
class Task {
 public:
  virtual ~Task() = default;
  /// Does what there is to do, at most one batch per queue; returns how many items (packets, requests) it moved.
  virtual std::uint32_t poll() = 0;
  /// Asks for a notification on the watched descriptors, then looks again: true when there is work already, in which
  /// case the worker does not sleep. The look must come after the request, with a full fence between the two.
  virtual bool arm() = 0;
  /// Takes the request back: the worker polls again.
  virtual void disarm() = 0;
};

/// When a worker that found nothing to do goes to sleep.
enum class Polling : std::uint8_t {
  poll,      ///< never: lowest latency, one core always busy
  adaptive,  ///< after `spin` without work
  sleep,     ///< at once
};

struct WorkerConfig {
  std::string name;
  Polling polling = Polling::adaptive;
  std::chrono::microseconds spin{50};
  std::optional<unsigned> cpu;  ///< the processor to run on; unset: any
};

/// Counters of a worker; written by it alone, read by any thread.
struct WorkerStats {
  std::uint64_t items = 0;        ///< items moved by all tasks
  std::uint64_t busy_cycles = 0;  ///< time-stamp counter spent in polls that moved something
  std::uint64_t sleeps = 0;       ///< times it went to sleep
};

/// One thread. Invariants: (1) tasks and watched descriptors are touched by the worker's thread alone, or by another
/// while that one sleeps; (2) the control thread changes them only through `run` and `run_anywhere`, which return after
/// the change has been made; (3) `poll` of no task is in progress while a change runs.
class Worker {
 public:
  static Result<std::unique_ptr<Worker>> start(WorkerConfig config);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  /// Stops the thread. Tasks must have been removed before.
  ~Worker();

  /// Runs `change` on the worker's thread between two polls and waits until it is done. Thread: any but the worker's.
  void run(std::move_only_function<void()> change);
  /// The same for a change that any thread may make: where the worker sleeps, that is the caller's, which spares two
  /// switches of threads. `change` returns whether there may be work now that no descriptor tells of: then the worker
  /// is woken, and not waited for. Thread: any but the worker's.
  void run_anywhere(std::move_only_function<bool()> change);

  /// Thread: worker (inside `run` or `run_anywhere`). The task stays the caller's and must be removed before it is
  /// destroyed.
  void add(Task& task);
  void remove(Task& task);
  /// Wakes the worker when `fd` becomes readable; an eventfd is drained by the worker, and what it held is added to
  /// `signals`, which must stay until `unwatch`. Thread: worker.
  Result<void> watch_event(const OwnedFd& fd, Counter* signals = nullptr);
  Result<void> watch_level(const OwnedFd& fd);
  void unwatch(const OwnedFd& fd);

  /// A worker at rest sleeps whenever it has nothing to do, however it is to poll: its processor is another's for a
  /// while. Thread: any but the worker's.
  void rest(bool resting) {
    run([this, resting] { resting_ = resting; });
  }

  const WorkerConfig& config() const { return config_; }
  WorkerStats stats() const;

 private:
  Worker(WorkerConfig config, EventFd wake, OwnedFd epoll);
  void loop(const std::stop_token& stop);
  std::uint32_t poll_all();
  void sleep_until_work(std::unique_lock<std::mutex>& awake);
  void await_handled(std::uint64_t ticket);
  void run_mail();
  void drain(int fd);
  Result<void> watch(const OwnedFd& fd, bool drain);
  void pin() const;

  WorkerConfig config_;
  EventFd wake_;
  OwnedFd epoll_;
  std::vector<Task*> tasks_;
  std::unordered_map<int, Counter*> counted_;  // by the watched descriptor
  bool resting_ = false;

  std::mutex mail_mutex_;
  std::condition_variable mail_done_;
  std::vector<std::move_only_function<void()>*> mail_;
  std::uint64_t mail_sent_ = 0;
  std::atomic<std::uint64_t> mail_handled_{0};
  std::atomic<bool> has_mail_{false};
  std::atomic<bool> is_asleep_{false};  // or about to be: mail must wake it
  std::mutex awake_mutex_;              // the worker's, but while it sleeps

  alignas(64) std::atomic<std::uint64_t> items_{0};
  std::atomic<std::uint64_t> busy_cycles_{0};
  std::atomic<std::uint64_t> sleeps_{0};

  std::jthread thread_;
};

}  // namespace causeway

// The control thread's event loop: descriptors, timers, signals and posted work, on one thread.
#pragma once

#include "base/owned_fd.h"

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>

namespace causeway {

/// Runs callbacks on the thread that calls `run`. Thread: `run`, `watch` and the timers on the loop's thread (or before
/// it runs); `post`, `call` and `stop` on any.
class Loop {
 public:
  using Callback = std::move_only_function<void()>;

  /// Something the loop was asked to do; destroying it takes the wish back, and its callback is never called again.
  class Registration {
   public:
    struct State {
      virtual ~State() = default;
      virtual void cancel() = 0;
    };
    explicit Registration(std::shared_ptr<State> state) : state_(std::move(state)) {}
    Registration(Registration&&) noexcept = default;
    Registration& operator=(Registration&& other) noexcept;
    ~Registration();

   private:
    std::shared_ptr<State> state_;
  };

  Loop();
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  /// Runs until `stop`.
  void run();
  /// Runs what is ready now and returns; for tests. True when something ran.
  bool run_ready();
  void stop();

  /// Runs `work` on the loop's thread, later.
  void post(Callback work);

  /// Runs `work` on the loop's thread and returns its result. Not from the loop's own thread.
  template <class Work>
  auto call(Work work) -> std::invoke_result_t<Work&> {
    std::mutex mutex;
    std::condition_variable finished;
    std::optional<std::invoke_result_t<Work&>> result;
    post([&] {
      auto value = work();
      const std::scoped_lock lock(mutex);
      result.emplace(std::move(value));
      finished.notify_one();
    });
    std::unique_lock lock(mutex);
    finished.wait(lock, [&] { return result.has_value(); });
    return std::move(*result);
  }

  /// Calls `callback` whenever `fd` is readable (or hung up), again and again while it is. `fd` must stay open as long
  /// as the registration lives.
  [[nodiscard]] Registration watch(const OwnedFd& fd, Callback callback);
  /// The same whenever `fd` can be written (or has nobody left who reads). Not while it is watched otherwise.
  [[nodiscard]] Registration watch_writable(const OwnedFd& fd, Callback callback);
  /// Calls `callback` once, after `delay`.
  [[nodiscard]] Registration after(std::chrono::milliseconds delay, Callback callback);
  /// Calls `callback` for each signal `number` the process receives.
  [[nodiscard]] Registration on_signal(int number, Callback callback);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace causeway

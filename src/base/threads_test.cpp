// The control thread's loop and the workers.

#include "base/log.h"
#include "base/loop.h"
#include "base/worker.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <optional>
#include <thread>

namespace causeway {
namespace {

using namespace std::chrono_literals;

template <class Condition>
bool wait_until(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + 30s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

TEST(Loop, CallsAgainAsLongAsADescriptorIsReadable) {
  Loop loop;
  const auto event = EventFd::make();
  ASSERT_TRUE(event);
  int calls = 0;
  const auto watch = loop.watch(event->fd(), [&] {
    if (++calls == 3) event->drain();
  });
  event->signal();
  EXPECT_TRUE(wait_until([&] {
    loop.run_ready();
    return calls == 3;
  }));
  loop.run_ready();
  EXPECT_EQ(calls, 3);
}

TEST(Loop, CallsOnceADescriptorCanBeWrittenAgain) {
  Loop loop;
  int raw[2] = {};
  ASSERT_EQ(::pipe2(raw, O_CLOEXEC | O_NONBLOCK), 0);
  const OwnedFd reader = OwnedFd::adopt(raw[0]);
  const OwnedFd writer = OwnedFd::adopt(raw[1]);
  std::array<std::byte, 4096> piece{};
  while (::write(writer.borrow(), piece.data(), piece.size()) > 0) continue;
  int calls = 0;
  std::optional<Loop::Registration> watch = loop.watch_writable(writer, [&] {
    ++calls;
    watch.reset();
  });
  loop.run_ready();
  EXPECT_EQ(calls, 0) << "there is no room";
  while (::read(reader.borrow(), piece.data(), piece.size()) > 0) continue;
  EXPECT_TRUE(wait_until([&] {
    loop.run_ready();
    return calls == 1;
  }));
}

TEST(Loop, NeverCallsBackAfterARegistrationEnded) {
  Loop loop;
  const auto event = EventFd::make();
  ASSERT_TRUE(event);
  int calls = 0;
  std::optional<Loop::Registration> watch;
  watch = loop.watch(event->fd(), [&] {
    ++calls;
    watch.reset();  // from inside its own callback
  });
  auto timer = std::optional(loop.after(0ms, [&] { ++calls; }));
  timer.reset();
  event->signal();
  EXPECT_TRUE(wait_until([&] {
    loop.run_ready();
    return calls > 0;
  }));
  for (int i = 0; i < 10; ++i) loop.run_ready();
  EXPECT_EQ(calls, 1);
}

TEST(Loop, AnswersCallsFromOtherThreads) {
  Loop loop;
  std::jthread control([&] { loop.run(); });
  const auto inside = loop.call([] { return std::this_thread::get_id(); });
  EXPECT_EQ(inside, control.get_id());
  loop.stop();
}

/// Counts how often it is polled; has work as long as `work` says so.
class CountingTask final : public Task {
 public:
  std::uint32_t poll() override {
    polls.fetch_add(1);
    const std::uint32_t have = work.load();
    if (have != 0) work.fetch_sub(1);
    return have != 0 ? 1 : 0;
  }
  bool arm() override { return work.load() != 0; }
  void disarm() override {}
  std::atomic<std::uint64_t> polls = 0;
  std::atomic<std::uint32_t> work = 0;
};

TEST(Worker, MakesChangesBetweenPollsAndReturnsAfterThem) {
  auto worker = Worker::start({.name = "w", .polling = Polling::poll, .cpu = std::nullopt});
  ASSERT_TRUE(worker);
  CountingTask task;
  std::thread::id inside;
  (*worker)->run([&] {
    inside = std::this_thread::get_id();
    (*worker)->add(task);
  });
  EXPECT_NE(inside, std::this_thread::get_id());
  EXPECT_TRUE(wait_until([&] { return task.polls > 100; }));
  (*worker)->run([&] { (*worker)->remove(task); });
  const auto polls = task.polls.load();
  (*worker)->run([] {});
  EXPECT_EQ(task.polls.load(), polls) << "a removed task is not polled";
}

TEST(Worker, TakesChangesFromSeveralThreadsAtOnce) {
  auto worker = Worker::start({.name = "w", .polling = Polling::sleep, .cpu = std::nullopt});
  ASSERT_TRUE(worker);
  int changes = 0;  // touched by the worker alone
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int j = 0; j < 500; ++j) (*worker)->run([&] { ++changes; });
      });
    }
  }
  (*worker)->run([&] { EXPECT_EQ(changes, 2000); });
}

TEST(Worker, WhileItSleepsMakesChangesOnTheCallersThread) {
  auto worker = Worker::start({.name = "w", .polling = Polling::sleep, .cpu = std::nullopt});
  ASSERT_TRUE(worker);
  CountingTask task;
  (*worker)->run([&] { (*worker)->add(task); });
  std::thread::id inside;
  for (const bool wakes : {false, true}) {
    // It may be awake for a moment after any change.
    ASSERT_TRUE(wait_until([&] {
      (*worker)->run_anywhere([&] {
        inside = std::this_thread::get_id();
        task.work = wakes ? 1 : 0;
        return wakes;
      });
      return inside == std::this_thread::get_id();
    }));
    EXPECT_TRUE(wait_until([&] { return task.work == 0; })) << "nobody has looked";
  }
  (*worker)->run([&] { (*worker)->remove(task); });
}

TEST(Worker, MakesChangesItselfWhileItIsAwake) {
  auto worker = Worker::start({.name = "w", .polling = Polling::poll, .cpu = std::nullopt});
  ASSERT_TRUE(worker);
  std::thread::id inside;
  (*worker)->run([&] { inside = std::this_thread::get_id(); });
  std::thread::id anywhere;
  (*worker)->run_anywhere([&] {
    anywhere = std::this_thread::get_id();
    return false;
  });
  EXPECT_EQ(anywhere, inside);
}

/// Changes of both kinds, and a worker that falls asleep and wakes all the time.
TEST(Worker, NoTwoChangesAreMadeAtOnce) {
  auto worker = Worker::start({.name = "w", .polling = Polling::sleep, .cpu = std::nullopt});
  ASSERT_TRUE(worker);
  int changes = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        for (int j = 0; j < 500; ++j) {
          if (i % 2 == 0) {
            (*worker)->run([&] { ++changes; });
          } else {
            (*worker)->run_anywhere([&] { return ++changes % 3 == 0; });
          }
        }
      });
    }
  }
  (*worker)->run([&] { EXPECT_EQ(changes, 2000); });
}

class SleepingWorker : public ::testing::TestWithParam<Polling> {};

TEST_P(SleepingWorker, SleepsWithoutWorkAndWakesForAnEvent) {
  auto worker = Worker::start({.name = "w", .polling = GetParam(), .spin = 10us, .cpu = std::nullopt});
  const auto event = EventFd::make();
  ASSERT_TRUE(worker && event);
  CountingTask task;
  (*worker)->run([&] {
    (*worker)->add(task);
    EXPECT_TRUE((*worker)->watch_event(event->fd()));
  });
  for (std::uint64_t round = 0; round < 20; ++round) {
    ASSERT_TRUE(wait_until([&] { return (*worker)->stats().sleeps > round; })) << "it does not go to sleep";
    const auto items = (*worker)->stats().items;
    task.work = 1;
    event->signal();
    ASSERT_TRUE(wait_until([&] { return (*worker)->stats().items > items; })) << "it does not wake";
  }
  (*worker)->run([&] { (*worker)->remove(task); });
}

INSTANTIATE_TEST_SUITE_P(Policies, SleepingWorker, ::testing::Values(Polling::adaptive, Polling::sleep));

TEST(RateLimit, LetsABurstThroughAndCountsTheRest) {
  log::RateLimit limit(3, 1s);
  const auto now = log::RateLimit::Clock::now();
  int allowed = 0;
  for (int i = 0; i < 10; ++i) allowed += limit.allow(now) ? 1 : 0;
  EXPECT_EQ(allowed, 3);
  EXPECT_EQ(limit.take_suppressed(), 7U);
  EXPECT_TRUE(limit.allow(now + 2s));
}

}  // namespace
}  // namespace causeway

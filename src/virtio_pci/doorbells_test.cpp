// Stores into doorbell pages become kicks.
#include "virtio_pci/doorbells.h"

#include "virtio_pci/fake_device_fixture.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace causeway::virtio_pci::testing {
namespace {

constexpr auto kLimit = std::chrono::seconds(20);
constexpr std::uint16_t kQueues = 3;

struct DoorbellsTest : ::testing::TestWithParam<Polling> {
  DoorbellsTest()
      : worker(value_or_die(Worker::start({.name = "test", .polling = GetParam(), .cpu = {}}))),
        file(value_or_die(make_memfd("bells", (kQueues + 1) * page_size()))),
        view(value_or_die(Mapping::map(file, 0, (kQueues + 1) * page_size()))),
        bells(value_or_die(Doorbells::make(*worker, file, page_size(), kQueues))) {}
  void store(std::uint16_t queue, std::uint16_t value) const {
    memory::GuestSpan::over({view->data(), view->size()})
        .store((queue + 1) * page_size(), value, std::memory_order_release);
  }
  template <class Done>
  static bool wait(Done done) {
    const auto end = std::chrono::steady_clock::now() + kLimit;
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }

  std::unique_ptr<Worker> worker;
  OwnedFd file;
  std::shared_ptr<const Mapping> view;
  std::unique_ptr<Doorbells> bells;
};

TEST_P(DoorbellsTest, AStoreBecomesAKickOfItsQueue) {
  const auto first = value_or_die(KickFd::make());
  const auto last = value_or_die(KickFd::make());
  bells->set(0, first);
  bells->set(2, last);
  store(2, 2);
  ASSERT_TRUE(wait([&] { return last.drain(); }));
  ASSERT_TRUE(wait([&] { return bells->rung(2) == 1; }));
  EXPECT_FALSE(first.drain());
  EXPECT_EQ(bells->rung(0), 0U);
  for (std::uint64_t times = 1; times <= 20; ++times) {
    store(0, 0);
    ASSERT_TRUE(wait([&] { return first.drain(); })) << times;
    ASSERT_TRUE(wait([&] { return bells->rung(0) == times; }));
  }
}

TEST_P(DoorbellsTest, AQueueWithoutAKickIsNotLookedAt) {
  const auto kick = value_or_die(KickFd::make());
  bells->set(1, kick);
  bells->set(1, std::nullopt);
  store(1, 1);
  store(0, 0);
  std::this_thread::sleep_for(2 * Doorbells::kLongestNap);
  EXPECT_FALSE(kick.drain());
  EXPECT_EQ(bells->rung(1), 0U);
  // What was stored in between is not lost.
  bells->set(1, kick);
  EXPECT_TRUE(wait([&] { return kick.drain(); }));
}

TEST_P(DoorbellsTest, APageThatIsLookedAtAgainWakesTheWorker) {
  const auto kick = value_or_die(KickFd::make());
  bells->set(1, kick);
  unsigned found = 0;
  for (std::uint64_t times = 1; times <= 20; ++times) {
    bells->watch(1, false);
    // Long enough for a worker to notice that it has nothing to look at, and to sleep without a nap's end.
    std::this_thread::sleep_for(2 * Doorbells::kLongestNap);
    kick.drain();
    const auto before = bells->rung(1);
    store(1, 1);
    std::this_thread::sleep_for(2 * Doorbells::kLongestNap);
    // A worker that was just looking when it was told not to may find it.
    if (bells->rung(1) != before) ++found;
    bells->watch(1, true);
    ASSERT_TRUE(wait([&] { return kick.drain(); })) << times;
  }
  EXPECT_LE(found, 5U) << "it is looked at all the time";
}

TEST_P(DoorbellsTest, AnotherKickTakesThePlaceOfTheFirst) {
  const auto old_kick = value_or_die(KickFd::make());
  const auto new_kick = value_or_die(KickFd::make());
  bells->set(1, old_kick);
  bells->set(1, new_kick);
  store(1, 1);
  ASSERT_TRUE(wait([&] { return new_kick.drain(); }));
  EXPECT_FALSE(old_kick.drain());
}

INSTANTIATE_TEST_SUITE_P(Workers, DoorbellsTest, ::testing::Values(Polling::sleep, Polling::adaptive, Polling::poll));

}  // namespace
}  // namespace causeway::virtio_pci::testing

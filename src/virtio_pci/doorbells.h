// The doorbell pages of a function of ours: memory that a client maps and its guest writes to.
#pragma once

#include "base/event_fd.h"
#include "base/mapping.h"
#include "base/worker.h"
#include "memory/guest_span.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace causeway::virtio_pci {

/// A store into memory wakes nobody: the pages are looked at, all the time while their worker is awake and after naps
/// while it sleeps, and what is found there becomes a kick. Thread: control; the pages are looked at on the worker.
class Doorbells final : private Task {
 public:
  /// Time from a store to its kick while the worker sleeps, at most: the first nap, doubled up to the longest as long
  /// as nobody rings.
  static constexpr std::chrono::microseconds kFirstNap{50};
  static constexpr std::chrono::microseconds kLongestNap{1000};

  /// One page per queue, the first at `offset` of `file`. `worker` must outlive it.
  static Result<std::unique_ptr<Doorbells>> make(Worker& worker, const OwnedFd& file, std::uint64_t offset,
                                                 std::uint16_t queues);
  Doorbells(const Doorbells&) = delete;
  Doorbells& operator=(const Doorbells&) = delete;
  ~Doorbells() override;

  /// Looks at the queue's page from now on; no kick: no more. Waits for the worker.
  void set(std::uint16_t queue, std::optional<KickFd> kick);
  /// Looks no more at the page of a queue that has a kick, or again. Does not wait for the worker, which may find one
  /// more store, and kick for it, after it was told not to look.
  void watch(std::uint16_t queue, bool watched);
  /// How many stores have been found in the queue's page.
  std::uint64_t rung(std::uint16_t queue) const { return bells_[queue].rung.load(std::memory_order_relaxed); }

 private:
  struct Bell {
    std::optional<KickFd> kick;         // the worker's
    std::atomic<bool> watched = false;  // written on the control thread
    std::atomic<std::uint64_t> rung{0};
  };
  Doorbells(Worker& worker, OwnedFd timer, std::shared_ptr<const Mapping> pages, std::uint16_t queues);
  std::uint32_t poll() override;
  bool arm() override;
  void disarm() override {}
  memory::GuestSpan page(std::size_t queue) const;
  void nap(std::chrono::nanoseconds time) const;

  Worker& worker_;
  OwnedFd timer_;
  std::shared_ptr<const Mapping> pages_;
  std::vector<Bell> bells_;
  std::atomic<unsigned> watched_ = 0;  // bells that are; written on the control thread
  std::chrono::microseconds nap_ = kFirstNap;
};

}  // namespace causeway::virtio_pci

// The driver side of a port behind an IOMMU that answers when the test wants it to.
#pragma once

#include "base/event_fd.h"
#include "port/port.h"
#include "virtio/driver_queue.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "support/driver_side.h"
#include "support/guest_memory.h"

namespace causeway::testing {

inline void require(const Result<void>& result) {
  if (!result) throw std::runtime_error(result.error().text());
}

/// Every mapping is at addresses that nothing had before. Thread: the port's control thread.
class IommuSide final : public port::DriverSide {
 public:
  static constexpr std::uint64_t kPage = memory::MemoryMap::kIommuPage;

  /// `loop` and `port` must outlive it.
  IommuSide(Loop& loop, port::Port& port, const GuestMemory& memory, virtio::FeatureSet features)
      : loop_(loop), port_(port) {
    require(port_.attach(*this));
    require(negotiate(port_, features.with(virtio::Feature::version_1).with(virtio::Feature::access_platform),
                      *memory.map()));
  }
  ~IommuSide() override { port_.detach(); }

  /// A started queue on a ring in the guest's memory that the port is told of; the ring is one page-aligned mapping.
  void start_queue(std::uint16_t index, const virtio::RingConfig& ring, const KickFd& kick, const CallFd& call) {
    const virtio::QueueIndex queue{index};
    const std::uint64_t first = ring.descriptors.value() / kPage * kPage;
    const std::uint64_t end = ring.used.value() + kPage * 2;
    const memory::Iova at = map({.first = memory::Iova(first), .size = (end - first) / kPage * kPage});
    const auto there = [&](memory::Iova place) { return at.value() + (place.value() - first); };
    require(port_.set_queue_size(queue, ring.size.entries()));
    require(port_.set_queue_addresses(queue, {.kind = port::RingAddressKind::guest,
                                              .descriptors = there(ring.descriptors),
                                              .available = there(ring.available),
                                              .used = there(ring.used)}));
    require(port_.set_queue_call(queue, call));
    require(port_.start_queue(queue, kick));
    answer_all();
    require(port_.enable_queue(queue, true));
  }
  void run() {
    using vdpa::Status;
    require(port_.set_status(Status::acknowledge | Status::driver | Status::features_ok | Status::driver_ok));
  }

  /// The driver's address of memory, page by page the same offset, until `unmap` of it.
  memory::Iova map(const memory::IovaRange& memory, memory::Access access = memory::Access::read_write) {
    const std::uint64_t offset = memory.first.value() % kPage;
    const std::uint64_t pages = (offset + memory.size + kPage - 1) / kPage;
    mapped_.push_back({.at = {.first = memory::Iova(next_), .size = pages * kPage},
                       .memory = memory.first.value() - offset,
                       .access = access});
    next_ += (pages + 1) * kPage;
    return memory::Iova(mapped_.back().at.first.value() + offset);
  }
  /// After return no Device uses the address any more.
  void unmap(memory::Iova at) {
    const auto found = find(at);
    if (found == mapped_.end()) throw std::runtime_error("what is unmapped was not mapped");
    const memory::IovaRange gone = found->at;
    mapped_.erase(found);
    require(port_.invalidate_translations(gone));
  }
  /// The port must ask again.
  void forget(memory::Iova at) { require(port_.invalidate_translations(find(at)->at)); }
  std::size_t asked() {
    while (loop_.run_ready()) continue;
    return asked_.size();
  }
  bool answer_one() {
    if (asked() == 0) return false;
    const memory::Miss miss = asked_.front();
    asked_.erase(asked_.begin());
    // A question may come when its mapping has ended: then there is no answer.
    const auto found = find(miss.at);
    if (found != mapped_.end()) tell(*found, {.first = miss.at, .size = kPage});
    return true;
  }
  void answer_all() {
    while (answer_one()) continue;
  }
  void tell_all(memory::Iova at) { tell(*find(at), find(at)->at); }
  std::vector<memory::IovaRange> mapped() const {
    std::vector<memory::IovaRange> all;
    for (const Mapped& each : mapped_) all.push_back(each.at);
    return all;
  }

  // DriverSide
  void config_changed() override {}
  void memory_lost() override {}
  void offer_notify_area(vdpa::QueueIndex /*queue*/, const vdpa::NotifyArea& /*area*/) override {}
  void withdraw_notify_area(vdpa::QueueIndex /*queue*/) override {}
  port::Doorbell doorbell(vdpa::QueueIndex /*queue*/) const override { return port::Doorbell::none; }
  bool translates() const override { return true; }
  void translation_missed(const memory::Miss& miss) override { asked_.push_back(miss); }

 private:
  struct Mapped {
    memory::IovaRange at;
    std::uint64_t memory;
    memory::Access access;
  };
  std::vector<Mapped>::iterator find(memory::Iova at) {
    return std::ranges::find_if(mapped_,
                                [&](const Mapped& each) { return each.at.overlaps({.first = at, .size = 1}); });
  }
  void tell(const Mapped& mapped, const memory::IovaRange& part) {
    const std::uint64_t offset = mapped.memory + (part.first.value() - mapped.at.first.value()) - GuestMemory::kBase;
    require(port_.update_translation({.iova = part.first,
                                      .size = part.size,
                                      .frontend_va = memory::FrontendVa(GuestMemory::kFrontendBase + offset),
                                      .access = mapped.access}));
  }

  Loop& loop_;
  port::Port& port_;
  std::vector<Mapped> mapped_;
  std::vector<memory::Miss> asked_;
  std::uint64_t next_ = 0x100'0000'0000;
};

/// Answers and looks until `condition` holds; a worker is on its way to make it true.
template <class Condition>
bool eventually(Loop& loop, Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    while (loop.run_ready()) continue;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace causeway::testing

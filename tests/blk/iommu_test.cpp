// A software disk behind an IOMMU: it translates by itself, and is done with what is unmapped when that returns.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <thread>

#include "blk/disk_rig.h"
#include "blk/held_store.h"
#include "support/iommu_side.h"

namespace causeway::testing {
namespace {

using blk::Operation;
using memory::Access, memory::Iova;
using virtio::BlkRequestType;
using virtio::BlkStatus;
using virtio::DriverBuffer;
using virtio::Feature;
using virtio::FeatureSet;

constexpr std::uint64_t kDisk = 1 << 20;
constexpr std::uint64_t kPage = IommuSide::kPage;
constexpr std::uint16_t kQueues = 2;
constexpr std::uint32_t kEntries = 64;

/// A port with one disk, whose driver has each request in pages of its own: header and status, and the data.
struct TranslatedDisk {
  struct Request {
    Iova data;  ///< where it is in memory
    Iova at;    ///< where the driver has it
    Iova head;  ///< likewise
    Iova head_at;
    std::uint32_t bytes;
  };
  struct Queue {
    virtio::RingConfig config;
    virtio::DriverQueue ring;
    KickFd kick = value_or_die(KickFd::make());
    CallFd call = value_or_die(CallFd::make());
  };

  TranslatedDisk(std::shared_ptr<blk::Store> store, FeatureSet features, std::uint16_t queue_count)
      : volume(std::make_shared<blk::Volume>("disk0", std::move(store), blk::RateLimits{})) {
    auto own = value_or_die(
        blk::Disk::make(loop, {worker.get()}, {.name = "soft", .queues = queue_count, .serial = {}}, volume));
    disk = own.get();
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    devices.push_back(std::move(own));
    port = value_or_die(port::Port::make(loop, {.name = "disk0", .features_off = {}, .relay_worker = worker.get()},
                                         std::move(devices)));
    if (queue_count > 1) features = features.with(virtio::BlkFeature::mq);
    side = std::make_unique<IommuSide>(loop, *port, memory, features);
    for (std::uint16_t i = 0; i < queue_count; ++i) {
      page();  // rings share no page
      const auto config = memory.make_ring(kEntries, features.with(Feature::version_1).with(Feature::access_platform));
      page();
      queues.push_back({.config = config, .ring = value_or_die(virtio::DriverQueue::start(config, memory.map()))});
      side->start_queue(i, config, queues[i].kick, queues[i].call);
    }
    side->run();
  }

  /// The next pages of the memory.
  Iova page(std::uint64_t pages = 1) {
    const Iova place = memory.allocate((pages + 1) * kPage);
    return Iova((place.value() + kPage - 1) / kPage * kPage);
  }
  Request make(BlkRequestType type, std::uint64_t sector, std::uint32_t bytes = kPage,
               Access access = Access::read_write) {
    Request request{.data = page((bytes + kPage - 1) / kPage), .at = {}, .head = page(), .head_at = {}, .bytes = bytes};
    memory.at(request.head, kPage)
        .put(0, virtio::BlkRequestHeader{.type = static_cast<std::uint32_t>(type), .reserved = 0, .sector = sector});
    memory.at(request.head, kPage).put(kStatus, std::uint8_t{0xee});
    request.at = side->map({.first = request.data, .size = bytes}, access);
    request.head_at = side->map({.first = request.head, .size = kPage});
    return request;
  }
  void submit(std::uint16_t queue, const Request& request, BlkRequestType type, std::uint64_t token = 0) {
    const std::array<DriverBuffer, 3> parts{{{.address = request.head_at, .length = sizeof(virtio::BlkRequestHeader)},
                                             {.address = request.at, .length = request.bytes},
                                             {.address = Iova(request.head_at.value() + kStatus), .length = 1}}};
    const std::size_t readable = type == BlkRequestType::in ? 1 : 2;
    const std::span<const DriverBuffer> all(parts);
    if (!queues[queue].ring.add(all.first(readable), all.subspan(readable), token)) throw std::runtime_error("full");
    queues[queue].ring.publish();
    queues[queue].kick.signal();
  }
  void know(const Request& request) const {
    side->tell_all(request.at);
    side->tell_all(request.head_at);
  }
  BlkStatus status_of(const Request& request) const {
    return static_cast<BlkStatus>(memory.at(request.head, kPage).fetch<std::uint8_t>(kStatus));
  }
  std::vector<std::byte> data_of(const Request& request) const {
    std::vector<std::byte> bytes(request.bytes);
    memory.at(request.data, bytes.size()).read(0, bytes);
    return bytes;
  }
  void put(const Request& request, const std::vector<std::byte>& bytes) const {
    memory.at(request.data, bytes.size()).write(0, bytes);
  }
  bool await_used(std::uint16_t queue) {
    return eventually(loop, [&] {
      side->answer_all();
      return queues[queue].ring.reap().has_value();
    });
  }
  /// Returns when the worker has looked at its rings since the call.
  void let_look() const {
    for (int i = 0; i < 2; ++i) worker->run([] {});
  }
  bool has_failed(std::uint16_t queue) {
    while (loop.run_ready()) continue;
    return port->report().queues[queue].failed;
  }

  /// A chain whose data the disk may not write; it ends the queue.
  void break_queue(std::uint16_t queue) {
    const auto denied = make(BlkRequestType::in, 8, kPage, Access::read);
    know(denied);
    submit(queue, denied, BlkRequestType::in);
    ASSERT_TRUE(eventually(loop, [&] { return has_failed(queue); }));
  }

  static constexpr std::size_t kStatus = 256;
  Loop loop;
  std::unique_ptr<Worker> worker = value_or_die(Worker::start({.name = "w0", .cpu = {}}));
  std::shared_ptr<blk::Volume> volume;
  blk::Disk* disk;
  GuestMemory memory{16 << 20};
  std::unique_ptr<port::Port> port;
  std::unique_ptr<IommuSide> side;
  std::vector<Queue> queues;
};

struct SoftDisk : ::testing::TestWithParam<FeatureSet> {
  TranslatedDisk rig{value_or_die(blk::RamStore::make(kDisk)), GetParam(), kQueues};
};

TEST_P(SoftDisk, IsDirectAndRunsBehindTheIommu) {
  for (const auto& queue : rig.port->report().queues) EXPECT_EQ(queue.path, port::Path::direct);
  const auto write = rig.make(BlkRequestType::out, 16, 3 * kPage);
  rig.put(write, pattern(3 * kPage, 1));
  rig.submit(0, write, BlkRequestType::out);
  ASSERT_TRUE(eventually(rig.loop, [&] { return rig.side->asked() != 0; }));
  EXPECT_FALSE(rig.queues[0].ring.reap()) << "it waits";
  ASSERT_TRUE(rig.await_used(0));
  EXPECT_EQ(rig.status_of(write), BlkStatus::ok);
  const auto read = rig.make(BlkRequestType::in, 16, 3 * kPage);
  rig.submit(1, read, BlkRequestType::in);
  ASSERT_TRUE(rig.await_used(1));
  EXPECT_EQ(rig.data_of(read), pattern(3 * kPage, 1));
  const auto report = rig.port->report();
  for (const auto& queue : report.queues) EXPECT_EQ(queue.path, port::Path::direct);
  EXPECT_EQ(report.translation->hits,
            rig.disk->translated(vdpa::QueueIndex{0}) + rig.disk->translated(vdpa::QueueIndex{1}));
  EXPECT_GE(report.translation->hits, 6U);
}

TEST_P(SoftDisk, WhatIsDeniedStopsItsQueueAndNoOther) {
  rig.break_queue(0);
  EXPECT_TRUE(has(rig.port->status(), vdpa::Status::needs_reset));
  EXPECT_FALSE(rig.has_failed(1));
  const auto request = rig.make(BlkRequestType::in, 0);
  rig.submit(1, request, BlkRequestType::in);
  ASSERT_TRUE(rig.await_used(1));
  EXPECT_EQ(rig.status_of(request), BlkStatus::ok);
}

/// On a store that finishes nothing before it may.
struct HeldDisk : ::testing::TestWithParam<FeatureSet> {
  ~HeldDisk() override { store->let_all_go(); }
  bool holds(std::size_t count) {
    return eventually(rig.loop, [&] { return store->held().size() == count; });
  }
  /// A read that the store holds.
  TranslatedDisk::Request begin_read() {
    const auto request = rig.make(BlkRequestType::in, 0);
    rig.put(request, kOld);
    rig.know(request);
    rig.submit(0, request, BlkRequestType::in);
    EXPECT_TRUE(holds(1));
    return request;
  }
  /// Runs `call`, which must not return before the store lets its operations go, a while later.
  template <class Call>
  void expect_waits_for_store(Call call) {
    std::atomic<bool> is_let_go = false;
    std::jthread helper([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      is_let_go = true;
      store->let_all_go();
    });
    call();
    EXPECT_TRUE(is_let_go);
    helper.join();
  }
  void expect_not_written_any_more(const TranslatedDisk::Request& request) {
    rig.put(request, kOther);
    store->let_all_go();
    rig.let_look();
    EXPECT_EQ(rig.data_of(request), kOther);
  }

  const std::vector<std::byte> kOld = std::vector<std::byte>(kPage, std::byte{0x11});
  const std::vector<std::byte> kOther = std::vector<std::byte>(kPage, std::byte{0x22});
  const std::vector<std::byte> kZeroes = std::vector<std::byte>(kPage);
  std::shared_ptr<HeldStore> store = std::make_shared<HeldStore>(kDisk);
  TranslatedDisk rig{store, GetParam(), 1};
};

TEST_P(HeldDisk, AnInvalidationOfWhatIsInFlightWaitsForItsEnd) {
  const auto request = begin_read();
  expect_waits_for_store([&] { rig.side->unmap(request.at); });
  EXPECT_EQ(rig.data_of(request), kZeroes) << "it was finished, since it had begun";
  EXPECT_EQ(rig.status_of(request), BlkStatus::ok);
  EXPECT_TRUE(rig.queues[0].ring.reap());
  expect_not_written_any_more(request);
}

TEST_P(HeldDisk, TheStatusIsPartOfARequestToo) {
  const auto request = begin_read();
  expect_waits_for_store([&] { rig.side->unmap(request.head_at); });
  EXPECT_TRUE(rig.queues[0].ring.reap());
}

TEST_P(HeldDisk, AnInvalidationElsewhereWaitsForNothing) {
  const auto request = begin_read();
  const auto other = rig.make(BlkRequestType::in, 8);
  rig.know(other);
  rig.side->unmap(other.at);
  EXPECT_EQ(store->held().size(), 1U);
  store->let_all_go();
  ASSERT_TRUE(rig.await_used(0));
  EXPECT_EQ(rig.data_of(request), kZeroes);
}

TEST_P(HeldDisk, WhatWaitsBehindARequestIsFinishedTooWhenItGoes) {
  const auto first = rig.make(BlkRequestType::out, 0);
  const auto second = rig.make(BlkRequestType::out, 0);
  for (const auto* write : {&first, &second}) {
    rig.put(*write, write == &first ? kOld : kOther);
    rig.know(*write);
    rig.submit(0, *write, BlkRequestType::out);
  }
  ASSERT_TRUE(holds(1));
  rig.let_look();
  expect_waits_for_store([&] { rig.side->unmap(second.at); });
  EXPECT_EQ(rig.status_of(second), BlkStatus::ok);
  EXPECT_TRUE(rig.queues[0].ring.reap());
  EXPECT_TRUE(rig.queues[0].ring.reap());
}

/// Though the queue is broken, the store still has what was begun before.
TEST_P(HeldDisk, AnInvalidationWaitsForWhatABrokenQueueHasBegun) {
  const auto request = begin_read();
  rig.break_queue(0);
  expect_waits_for_store([&] { rig.side->unmap(request.at); });
  expect_not_written_any_more(request);
}

TEST_P(HeldDisk, MemoryThatGoesIsNotWrittenByABrokenQueue) {
  const auto request = begin_read();
  rig.break_queue(0);
  const memory::Region region = rig.memory.map()->regions().front();
  expect_waits_for_store([&] { EXPECT_TRUE(rig.port->remove_memory(region.iova, region.frontend_va, region.size)); });
  expect_not_written_any_more(request);
}

TEST_P(HeldDisk, AHeadThatIsMadeAvailableTwiceHidesNothing) {
  if (GetParam().has(Feature::ring_packed)) return;  // there it is an id, as the engines' own tests have it
  const auto request = begin_read();
  // The same head again: its first descriptor now leads elsewhere.
  const auto other = rig.make(BlkRequestType::in, 8);
  rig.know(other);
  const auto& config = rig.queues[0].config;
  const auto data = rig.memory.at(config.descriptors, std::uint64_t{16} * kEntries);
  const auto available = rig.memory.at(config.available, 6 + 2 * kEntries);
  const auto head = available.fetch<std::uint16_t>(virtio::kRingEntries);
  auto first = data.fetch<virtio::Descriptor>(16U * head);
  auto second = data.fetch<virtio::Descriptor>(16U * first.next);
  first.address = other.head_at.value();
  second.address = other.at.value();
  data.put(16U * first.next, second);
  data.put(16U * head, first);
  available.put(virtio::kRingEntries + 2, head);
  available.put(virtio::kRingIndex, std::uint16_t{2});
  rig.queues[0].kick.signal();
  ASSERT_TRUE(eventually(rig.loop, [&] { return rig.has_failed(0); }));
  expect_waits_for_store([&] { rig.side->unmap(request.at); });
  expect_not_written_any_more(request);
}

INSTANTIATE_TEST_SUITE_P(Rings, SoftDisk, ::testing::Values(FeatureSet{}, FeatureSet{Feature::ring_packed}));
INSTANTIATE_TEST_SUITE_P(Rings, HeldDisk, ::testing::Values(FeatureSet{}, FeatureSet{Feature::ring_packed}));

/// Random writes and reads at fresh addresses, which are answered when it pleases, and forgotten in between.
void follows_the_model_behind_an_iommu(FeatureSet features) {
  TranslatedDisk rig(value_or_die(blk::RamStore::make(kDisk)), features, kQueues);
  std::vector<unsigned> seeds(8);
  const auto rounds = *rc::gen::inRange(1, 30);
  for (int round = 0; round < rounds; ++round) {
    const auto slot = *rc::gen::inRange<std::size_t>(0, seeds.size());
    const bool writes = *rc::gen::arbitrary<bool>();
    const auto queue = *rc::gen::inRange<std::uint16_t>(0, kQueues);
    const auto type = writes ? BlkRequestType::out : BlkRequestType::in;
    const auto request = rig.make(type, slot * 16, 2 * kPage);
    if (writes) rig.put(request, pattern(request.bytes, seeds[slot] = *rc::gen::inRange(1U, 1000U)));
    rig.submit(queue, request, type);
    for (int i = *rc::gen::inRange(0, 4); i > 0; --i) {
      if (*rc::gen::arbitrary<bool>()) rig.side->answer_one();
      const auto mapped = rig.side->mapped();
      rig.side->forget(mapped[*rc::gen::inRange<std::size_t>(0, mapped.size())].first);
    }
    RC_ASSERT(rig.await_used(queue));
    RC_ASSERT(rig.status_of(request) == BlkStatus::ok);
    const auto expected =
        seeds[slot] == 0 ? std::vector<std::byte>(request.bytes) : pattern(request.bytes, seeds[slot]);
    RC_ASSERT(rig.data_of(request) == expected);
    rig.side->unmap(request.at);
    rig.side->unmap(request.head_at);
  }
}

RC_GTEST_PROP(DiskBehindAnIommu, FollowsTheModelOnASplitRing, ()) {
  follows_the_model_behind_an_iommu({});
}
RC_GTEST_PROP(DiskBehindAnIommu, FollowsTheModelOnAPackedRing, ()) {
  follows_the_model_behind_an_iommu({Feature::ring_packed});
}

}  // namespace
}  // namespace causeway::testing

// front_end_check: a front-end beside a causewayd in the same guest: our own driver side at the end of its sockets.
//
//   front_end_check disk STOP SOCKET BLOCKS    writes each block of 4 KiB and reads it back, round after round
//   front_end_check kvm STOP SOCKET BLOCKS     the same, as a VMM does it: the VFIO groups that come are given to KVM
//   front_end_check net STOP SOCKET SOCKET     exchanges numbered frames between two ports, both ways
//
// Prints "round N" when that round is done, and ends after the round in which the file STOP has appeared, with
// "ended after round N". Kicks go to the doorbells that are offered, mapped into this process, as far as a disk has
// them: "rang N doorbells". A disk's request that fails, or ends with the wrong contents, or never, is the end, as are
// frames that come twice or out of order. Frames may be lost; "lost N" says how many were.
#include "vfio/kvm_device.h"
#include "vhost_user/frontend.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "support/blk_driver.h"
#include "support/fake_guest.h"

namespace {

using namespace causeway;
using std::chrono::milliseconds, std::chrono::seconds, std::chrono::steady_clock;
using testing::BlkDriver, testing::BlkRequest, testing::FakeGuest;

constexpr seconds kPatience{30};  // for a request, or a frame that arrives
constexpr std::chrono::microseconds kPause{100};

Result<std::unique_ptr<port::Port>> connect(Loop& loop, const char* socket, virtio::DeviceType type,
                                            bool vfio_groups = false) {
  vhost_user::FrontendConfig config;  // two queues
  config.name = socket;
  config.path = socket;
  config.type = type;
  config.vfio_groups = vfio_groups;
  CW_TRY(auto frontend, vhost_user::Frontend::make(loop, std::move(config)));
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  devices.push_back(std::move(frontend));
  return port::Port::make(loop, {.name = "front-end", .features_off = {}}, std::move(devices));
}

// --- KVM ------------------------------------------------------------------------------------------------------------

/// A virtual machine of KVM's that has no processor and no memory. Prints what becomes of VFIO groups.
class Machine {
 public:
  static Result<std::unique_ptr<Machine>> make() {
    const int kvm = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) return fail(system_error("open /dev/kvm"));
    const OwnedFd closes = OwnedFd::adopt(kvm);
    const int raw = ::ioctl(kvm, KVM_CREATE_VM, 0);
    if (raw < 0) return fail(system_error("make a virtual machine"));
    auto machine = OwnedFd::adopt(raw);
    CW_TRY(auto device, vfio::KvmDevice::make(machine));
    if (auto second = vfio::KvmDevice::make(machine); second || second.error().code != Errc::busy) {
      return fail(Errc::peer_violation, "a second VFIO device of one machine is not refused");
    }
    return std::unique_ptr<Machine>(new Machine(std::move(machine), std::move(device)));
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  vdpa::VfioGroups& groups() { return groups_; }

 private:
  Machine(OwnedFd machine, vfio::KvmDevice device)
      : machine_(std::move(machine)),
        device_(std::move(device)),
        groups_([this](const OwnedFd& group) { return add(group); },
                [this](const OwnedFd& group) { return remove(group); }) {}

  Result<void> add(const OwnedFd& group) {
    vfio_group_status status{.argsz = sizeof status, .flags = 0};
    if (::ioctl(group.borrow(), VFIO_GROUP_GET_STATUS, &status) < 0) return fail(system_error("ask for its status"));
    const bool is_used = (status.flags & VFIO_GROUP_FLAGS_CONTAINER_SET) != 0;
    CW_CHECK(device_.add(group));
    const auto again = device_.add(group);
    return say(fmt::format("group added, {}, {}", is_used ? "in use" : "not in use",
                           !again && again.error().code == Errc::busy ? "known to KVM" : "unknown to KVM"));
  }
  Result<void> remove(const OwnedFd& group) {
    CW_CHECK(device_.remove(group));
    const auto again = device_.remove(group);
    return say(fmt::format("group removed, {}",
                           !again && again.error().code == Errc::not_found ? "unknown to KVM" : "known to KVM"));
  }
  static Result<void> say(const std::string& what) {
    fmt::print("{}\n", what);
    std::fflush(stdout);
    return {};
  }

  OwnedFd machine_;
  vfio::KvmDevice device_;
  vdpa::VfioGroups groups_;
};

// --- disk -----------------------------------------------------------------------------------------------------------

constexpr std::size_t kBlock = 4096;
constexpr std::size_t kDepth = 16;  // requests under way
constexpr std::uint16_t kQueues = 2;

/// What a block must hold after a round: both numbers, over and over.
std::vector<std::byte> contents(std::uint64_t block, std::uint64_t round) {
  const std::array words{block, round};
  std::vector<std::byte> bytes(kBlock);
  for (std::size_t at = 0; at < bytes.size(); at += sizeof words) std::memcpy(&bytes[at], words.data(), sizeof words);
  return bytes;
}

class DiskCheck {
 public:
  /// `groups`: nullptr: VFIO groups are not taken.
  static Result<DiskCheck> make(Loop& loop, const char* socket, std::uint64_t blocks, vdpa::VfioGroups* groups) {
    CW_TRY(auto port, connect(loop, socket, virtio::DeviceType::block, groups != nullptr));
    CW_TRY(auto driver, BlkDriver::plug_in(*port, {.features = virtio::FeatureSet{virtio::BlkFeature::flush},
                                                   .queues = kQueues,
                                                   .rings_doorbells = true,
                                                   .vfio_groups = groups}));
    return DiskCheck(loop, std::move(port), std::move(driver), blocks);
  }

  Result<void> round(std::uint64_t number) {
    CW_CHECK(each_block(virtio::BlkRequestType::out, number));
    return each_block(virtio::BlkRequestType::in, number);
  }
  void report() const {
    fmt::print("rang {} doorbells\n", driver_->doorbells_rung());
    fmt::print("queues with a group: {}\n", driver_->vfio_shares());
  }

 private:
  using UnderWay = std::map<std::pair<std::uint16_t, std::uint64_t>, std::uint64_t>;  // queue and token: block

  DiskCheck(Loop& loop, std::unique_ptr<port::Port> port, std::unique_ptr<BlkDriver> driver, std::uint64_t blocks)
      : loop_(&loop), blocks_(blocks), port_(std::move(port)), driver_(std::move(driver)) {}

  static BlkRequest request(virtio::BlkRequestType type, std::uint64_t block, std::uint64_t round) {
    const bool writes = type == virtio::BlkRequestType::out;
    return {.type = type,
            .sector = block * (kBlock / virtio::kSectorSize),
            .data = writes ? contents(block, round) : std::vector<std::byte>(),
            .answer_bytes = writes ? 0 : static_cast<std::uint32_t>(kBlock)};
  }

  Result<void> each_block(virtio::BlkRequestType type, std::uint64_t round) {
    UnderWay under_way;
    auto last = steady_clock::now();
    for (std::uint64_t next = 0; next < blocks_ || !under_way.empty();) {
      loop_->run_ready();
      while (next < blocks_ && under_way.size() < kDepth) {
        const auto queue = static_cast<std::uint16_t>(next % kQueues);
        const auto token = driver_->submit(queue, request(type, next, round));
        if (!token) return fail(Errc::busy, "the ring is full");
        under_way.emplace(std::pair(queue, *token), next++);
      }
      const std::size_t before = under_way.size();
      for (std::uint16_t queue = 0; queue < kQueues; ++queue) {
        while (const auto done = driver_->reap(queue)) CW_CHECK(check(queue, *done, under_way, type, round));
      }
      if (under_way.size() != before) {
        last = steady_clock::now();
      } else if (steady_clock::now() - last > kPatience) {
        return fail(Errc::gone, fmt::format("no request ends, of {} under way", under_way.size()));
      } else {
        std::this_thread::sleep_for(kPause);
      }
    }
    return {};
  }

  static Result<void> check(std::uint16_t queue, const testing::BlkCompletion& done, UnderWay& under_way,
                            virtio::BlkRequestType type, std::uint64_t round) {
    const auto found = under_way.extract({queue, done.token});
    if (found.empty()) return fail(Errc::peer_violation, "a request has ended that was not under way");
    const std::uint64_t block = found.mapped();
    if (done.status != virtio::BlkStatus::ok) {
      return fail(Errc::peer_violation, fmt::format("block {}, round {}: the request failed", block, round));
    }
    if (type == virtio::BlkRequestType::in && done.data != contents(block, round)) {
      return fail(Errc::peer_violation, fmt::format("block {} does not hold what round {} wrote", block, round));
    }
    return {};
  }

  Loop* loop_;
  std::uint64_t blocks_;
  std::unique_ptr<port::Port> port_;
  std::unique_ptr<BlkDriver> driver_;
};

// --- net ------------------------------------------------------------------------------------------------------------

constexpr std::uint64_t kFramesOfRound = 200;  // each way
constexpr std::uint64_t kWindow = 32;          // frames on their way; fewer than a receive ring has room for
constexpr milliseconds kLostAfter{500};
constexpr std::size_t kHeaderBytes = 14;

/// Frames from one guest to the other.
struct Direction {
  FakeGuest* from;
  FakeGuest* to;
  std::byte sender;                                     // tells the MAC addresses of the two apart
  std::uint64_t sent = 0;                               // the number of the next frame
  std::uint64_t given_up = 0;                           // those before are not waited for
  std::uint64_t next = 0;                               // that is to arrive
  std::uint64_t came = 0;                               // in this round
  std::uint64_t lost = 0;                               // in all
  steady_clock::time_point last = steady_clock::now();  // arrival
};

std::vector<std::byte> frame(std::byte sender, std::uint64_t number) {
  std::vector<std::byte> bytes(60 + number % 1000, static_cast<std::byte>(number));
  const auto receiver = sender ^ std::byte{1};
  const std::array header{std::byte{0x52}, std::byte{0x54}, std::byte{0},    std::byte{0},   std::byte{0},
                          receiver,        std::byte{0x52}, std::byte{0x54}, std::byte{0},   std::byte{0},
                          std::byte{0},    sender,          std::byte{0x88}, std::byte{0xb5}};
  static_assert(header.size() == kHeaderBytes);
  std::ranges::copy(header, bytes.begin());
  std::memcpy(&bytes[kHeaderBytes], &number, sizeof number);
  return bytes;
}

class NetCheck {
 public:
  static Result<NetCheck> make(Loop& loop, const char* socket, const char* other) {
    NetCheck check(loop);
    for (const char* path : {socket, other}) {
      CW_TRY(auto port, connect(loop, path, virtio::DeviceType::net));
      CW_TRY(auto guest, FakeGuest::plug_in(*port, {.features = {}, .ring_size = 128}));
      check.ports_.push_back(std::move(port));
      check.guests_.push_back(std::move(guest));
    }
    FakeGuest* const a = check.guests_[0].get();
    FakeGuest* const b = check.guests_[1].get();
    check.directions_ = {{.from = a, .to = b, .sender = std::byte{2}}, {.from = b, .to = a, .sender = std::byte{3}}};
    return check;
  }

  Result<void> round(std::uint64_t /*number*/) {
    const auto begin = steady_clock::now();
    for (Direction& direction : directions_) direction.came = 0;
    const auto is_done = [](const Direction& direction) { return direction.came >= kFramesOfRound; };
    while (!std::ranges::all_of(directions_, is_done)) {
      loop_->run_ready();
      bool is_idle = true;
      for (Direction& direction : directions_) {
        send(direction);
        CW_TRY(const bool any, receive(direction));
        if (any) is_idle = false;
      }
      if (steady_clock::now() - begin > kPatience) return fail(Errc::gone, "frames do not arrive any more");
      if (is_idle) std::this_thread::sleep_for(kPause);
    }
    return {};
  }
  void report() const { fmt::print("lost {}\n", directions_[0].lost + directions_[1].lost); }

 private:
  explicit NetCheck(Loop& loop) : loop_(&loop) {}

  static void send(Direction& way) {
    way.from->reap(0);
    while (way.sent - std::max(way.next, way.given_up) < kWindow && way.from->send(0, {}, frame(way.sender, way.sent)))
      ++way.sent;
    way.from->flush(0);
  }

  static Result<bool> receive(Direction& way) {
    bool any = false;
    while (const auto arrival = way.to->receive(0)) {
      std::uint64_t number = ~0ULL;
      if (arrival->frame.size() > kHeaderBytes + sizeof number) {
        std::memcpy(&number, &arrival->frame[kHeaderBytes], sizeof number);
      }
      if (number < way.next || number >= way.sent || arrival->frame != frame(way.sender, number)) {
        return fail(Errc::peer_violation, fmt::format("frame {} came where {} was due", number, way.next));
      }
      way.lost += number - way.next;
      way.next = number + 1;
      ++way.came;
      way.last = steady_clock::now();
      any = true;
    }
    if (!any && steady_clock::now() - way.last > kLostAfter) way.given_up = way.sent;  // though they may come yet
    return any;
  }

  Loop* loop_;
  std::vector<std::unique_ptr<port::Port>> ports_;
  std::vector<std::unique_ptr<FakeGuest>> guests_;
  std::vector<Direction> directions_;
};

template <class Check>
Result<void> repeat(Result<Check> made, const char* stop) {
  CW_TRY(Check check, std::move(made));
  for (std::uint64_t round = 1;; ++round) {
    CW_CHECK(check.round(round));
    fmt::print("round {}\n", round);
    std::fflush(stdout);
    if (!std::filesystem::exists(stop)) continue;
    check.report();
    fmt::print("ended after round {}\n", round);
    return {};
  }
}

}  // namespace

int main(int count, char** words) {
  if (count != 5) return 2;
  Loop loop;
  const std::string_view kind(words[1]);
  const auto disk = [&](vdpa::VfioGroups* groups) {
    return repeat(DiskCheck::make(loop, words[3], std::strtoull(words[4], nullptr, 10), groups), words[2]);
  };
  const auto with_kvm = [&]() -> Result<void> {
    CW_TRY(const auto machine, Machine::make());
    return disk(&machine->groups());
  };
  const auto done = kind == "kvm"    ? with_kvm()
                    : kind == "disk" ? disk(nullptr)
                                     : repeat(NetCheck::make(loop, words[3], words[4]), words[2]);
  if (!done) fmt::print(stderr, "front_end_check: {}\n", done.error().text());
  return done ? 0 : 1;
}

// How long a queue of an accelerator takes to stop and to start again, as in a rebind away and back: a disk in memory,
// presented as a virtio-pci function over a vfio-user socket by a process of its own, and the Device that drives it. No
// request is under way, and nothing of a front-end, a guest or a command is in these figures.
#include "base/loop.h"
#include "base/worker.h"
#include "port/port.h"
#include "vfio_user/client.h"
#include "vfio_user/server_connection.h"
#include "virtio_pci/device.h"
#include "virtio_pci/function.h"

#include <fmt/format.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "blk/disk.h"
#include "blk/ram_store.h"
#include "blk/volume.h"
#include "support/guest_memory.h"

namespace {

using namespace causeway;
using testing::value_or_die;
using virtio::QueueIndex;

/// The accelerator's process: until its client leaves.
void serve(UnixSocket socket) {
  Loop loop;
  const auto worker = value_or_die(Worker::start({.name = "accelerator", .cpu = {}}));
  const auto volume =
      std::make_shared<blk::Volume>("disk", value_or_die(blk::RamStore::make(1 << 20)), blk::RateLimits{});
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  devices.push_back(
      value_or_die(blk::Disk::make(loop, {worker.get()}, {.name = "soft", .queues = 1, .serial = {}}, volume)));
  const auto port = value_or_die(port::Port::make(loop, {.name = "f0", .features_off = {}}, std::move(devices)));
  const auto function = value_or_die(virtio_pci::Function::make(loop, *port, *worker, {}));
  vfio_user::ServerConnection connection(loop, *function, "f0", std::move(socket), [&](Error) { loop.stop(); });
  loop.run();
}

class Times {
 public:
  template <class Work>
  auto measure(Work work) {
    const auto begin = std::chrono::steady_clock::now();
    auto result = work();
    microseconds_.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
    return result;
  }
  void print(std::string_view what) {
    std::ranges::sort(microseconds_);
    const auto at = [&](std::size_t percent) { return microseconds_[(microseconds_.size() - 1) * percent / 100]; };
    fmt::print("{:<8}{:>10.0f}{:>10.0f}{:>10.0f}\n", what, at(50), at(99), at(100));
  }

 private:
  std::vector<double> microseconds_;
};

void require(const Result<void>& result) {
  if (!result) throw std::runtime_error(result.error().text());
}

long switches(int who) {
  rusage usage{};
  ::getrusage(who, &usage);
  return usage.ru_nvcsw;
}

void drive(UnixSocket socket, std::size_t moves) {
  Loop loop;
  testing::GuestMemory memory;
  auto bus = value_or_die(vfio_user::Client::make_on(loop, {.path = "f0"}, std::move(socket)));
  const auto device = value_or_die(
      virtio_pci::Device::make(loop, std::move(bus), {.name = "acc", .type = virtio::DeviceType::block, .queues = 1}));
  require(device->set_features(virtio::FeatureSet{virtio::Feature::version_1}));
  require(device->map(memory.map()->regions()));
  auto ring = memory.make_ring(256, virtio::FeatureSet{virtio::Feature::version_1});
  const auto kick = value_or_die(KickFd::make());
  const auto call = value_or_die(CallFd::make());
  Times starts;
  Times stops;
  const long before = switches(RUSAGE_SELF);
  for (std::size_t i = 0; i < moves; ++i) {
    require(starts.measure(
        [&] { return device->set_queue(QueueIndex{0}, {.ring = ring, .kick = kick, .call = call, .enabled = true}); }));
    // The worker goes to sleep, as one does that has been idle.
    ::usleep(500);
    ring.start = value_or_die(stops.measure([&] { return device->stop_queue(QueueIndex{0}, vdpa::StopMode::leave); }));
    ::usleep(500);
  }
  const long waits = switches(RUSAGE_SELF) - before - 2 * static_cast<long>(moves);
  fmt::print("{} moves away and back, microseconds\n{:<8}{:>10}{:>10}{:>10}\n", moves, "", "median", "p99", "max");
  stops.print("stop");
  starts.print("start");
  fmt::print("waits a move: {:.1f} of the driver", static_cast<double>(waits) / static_cast<double>(moves));
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t moves = 2000;
  if (argc > 1) std::from_chars(argv[1], argv[1] + std::strlen(argv[1]), moves);
  auto [ours, theirs] = value_or_die(UnixSocket::make_pair());
  const pid_t child = ::fork();
  if (child == 0) {
    {
      const UnixSocket unused = std::move(ours);
    }
    serve(std::move(theirs));
    return 0;
  }
  {
    const UnixSocket unused = std::move(theirs);
  }
  drive(std::move(ours), moves);
  ::waitpid(child, nullptr, 0);
  fmt::print(", {:.1f} of the accelerator\n",
             static_cast<double>(switches(RUSAGE_CHILDREN)) / static_cast<double>(moves));
  return 0;
}

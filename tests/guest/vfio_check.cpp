// vfio_check: proves, from inside a guest, that vfio::KernelBus drives a PCI function and lets go of it.
//
//   vfio_check ADDRESS    of a virtio-net-pci that is bound to vfio-pci
//
// Prints "ok: ..." for each thing that holds, and "refused: ..." for each error that was due; ends with code 1 at the
// first thing that does not. It says "waiting: ..." when the other side of the guest has to do something.
#include "base/event_fd.h"
#include "base/loop.h"
#include "memory/memory_map.h"
#include "vfio/kernel_bus.h"

#include <fmt/format.h>

#include <linux/capability.h>
#include <linux/pci_regs.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <string>

#include "vfio_net.h"

namespace {

using namespace causeway;
using namespace causeway::check;
using std::chrono::seconds;
using vfio::RegionIndex;

constexpr std::uint64_t kMib = 1 << 20;

struct Observer final : vfio::BusObserver {
  void bus_gone(Error reason) override {
    ++calls;
    text = reason.text();
  }
  int calls = 0;
  std::string text;
};

void check_config(vfio::Bus& bus) {
  const Registers config(bus, RegionIndex::config, 0);
  const auto vendor = config.read<std::uint16_t>(PCI_VENDOR_ID);
  const auto device = config.read<std::uint16_t>(PCI_DEVICE_ID);
  expect(vendor == 0x1af4 && device == 0x1041, fmt::format("the function is {:04x}:{:04x}", vendor, device));
  expect(bus.info().region(RegionIndex::config).size == PCI_CFG_SPACE_EXP_SIZE,
         "it has the config space of PCI Express");
  expect(bus.info().iovas.back().last == memory::Iova((1ULL << 39) - 1), "its IOVAs have 39 bits");
  std::array<std::byte, 4> bytes{};
  must_fail(bus.read(RegionIndex::config, PCI_CFG_SPACE_EXP_SIZE - 2, bytes), Errc::invalid_value, "config space");
  must_fail(bus.read(RegionIndex::vga, 0, bytes), Errc::invalid_value, "VGA");
  std::array<std::byte, 2> status{};
  const Registers common = find_virtio(bus, VIRTIO_PCI_CAP_COMMON_CFG);
  config.write<std::uint16_t>(PCI_COMMAND, 0);
  must_fail(bus.read(RegionIndex::bar4, 0, status), Errc::system, "command register");
  config.write<std::uint16_t>(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  expect(common.read<std::uint16_t>(VIRTIO_PCI_COMMON_NUMQ) == 3, "its registers tell three queues");
}

void check_vectors(vfio::Bus& bus, Loop& loop, ControlQueue& control) {
  const std::array events = {must(EventFd::make()), must(EventFd::make())};
  const std::uint32_t all = bus.info().vectors;
  expect(all == 4, "it has four MSI-X vectors");
  must_fail(bus.set_vector(0, &events[0].fd()), Errc::invalid_value, "not enabled");
  must_fail(bus.enable_vectors(all + 1), Errc::invalid_value, "cannot enable");
  must(bus.enable_vectors(all));
  must(bus.enable_vectors(2));
  must(bus.set_vector(0, &events[0].fd()));
  must(bus.set_vector(1, &events[1].fd()));
  must_fail(bus.set_vector(2, &events[0].fd()), Errc::invalid_value, "not enabled");

  control.start();
  say("waiting", "change the link's state");
  expect(run_until(loop, seconds(20), [&] { return events[1].drain(); }), "vector 1 signals its eventfd");
  expect(!events[0].drain(), "vector 0 does not");
  must(bus.set_vector(1, nullptr));
  must(bus.enable_vectors(0));
  must(bus.enable_vectors(2));
}

memory::Region make_region(std::uint64_t iova, std::uint64_t size) {
  return must(
      memory::Region::map(memory::Iova(iova), memory::FrontendVa(iova), size, must(make_memfd("check", size)), 0));
}

void check_dma(vfio::Bus& bus) {
  const auto region = make_region(kMib, 2 * kMib);
  must(bus.dma_map(region));
  must_fail(bus.dma_map(region), Errc::invalid_value, "overlaps");
  must_fail(bus.dma_map(make_region(0, kMib + page_size())), Errc::invalid_value, "overlaps");
  must_fail(bus.dma_map(make_region(3 * kMib - page_size(), kMib)), Errc::invalid_value, "overlaps");
  const auto above = make_region(3 * kMib, kMib);
  must(bus.dma_map(above));
  must_fail(bus.dma_map(make_region(8 * kMib + 0x200, kMib)), Errc::invalid_value, "its IOVA 0x800200 is no multiple");
  must_fail(bus.dma_map(make_region(8 * kMib, kMib + 0x200)), Errc::invalid_value, "its size 0x100200 is no multiple");
  must_fail(bus.dma_map(make_region(1ULL << 39, kMib)), Errc::invalid_value, "outside of the IOVAs");
  must_fail(bus.dma_map(make_region((1ULL << 39) - page_size(), kMib)), Errc::invalid_value, "outside of the IOVAs");
  must_fail(bus.dma_map(make_region(0xfee00000, page_size())), Errc::invalid_value, "0xfedfffff");
  must(bus.dma_unmap(region));
  must_fail(bus.dma_unmap(region), Errc::not_found, "not mapped");
  must(bus.dma_map(region));
  must(bus.dma_unmap(above));
  expect(true, "memory is mapped for DMA, and unmapped");
}

/// From here on RLIMIT_MEMLOCK holds for us, as for a daemon that is not root.
void check_memory_limit(vfio::Bus& bus) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> capabilities{};
  ::syscall(SYS_capget, &header, capabilities.data());
  capabilities[0].effective &= ~(1U << CAP_IPC_LOCK);
  expect(::syscall(SYS_capset, &header, capabilities.data()) == 0, "memory is limited");
  const rlimit limit{.rlim_cur = 65536, .rlim_max = 65536};
  ::setrlimit(RLIMIT_MEMLOCK, &limit);
  must_fail(bus.dma_map(make_region(16 * kMib, 4 * kMib)), Errc::system,
            "to pin 4194304 bytes: RLIMIT_MEMLOCK allows this process 65536 bytes");
}

void check_reset(vfio::Bus& bus) {
  expect(bus.info().can_reset, "it can be reset");
  const Registers common = find_virtio(bus, VIRTIO_PCI_CAP_COMMON_CFG);
  expect(common.read<std::uint8_t>(VIRTIO_PCI_COMMON_STATUS) != 0, "its driver is there before the reset");
  must(bus.reset());
  expect(common.read<std::uint8_t>(VIRTIO_PCI_COMMON_STATUS) == 0, "its driver is not there after the reset");
  const auto event = must(EventFd::make());
  must_fail(bus.set_vector(0, &event.fd()), Errc::invalid_value, "not enabled");
}

void check_gone(vfio::Bus& bus, Loop& loop, Observer& observer) {
  std::array<std::byte, 4> bytes{};
  const auto region = make_region(64 * kMib, page_size());
  must_fail(bus.read(RegionIndex::config, 0, bytes), Errc::gone, "has gone");
  must_fail(bus.write(RegionIndex::config, 0, bytes), Errc::gone, "has gone");
  must_fail(bus.dma_map(region), Errc::gone, "has gone");
  must_fail(bus.dma_unmap(region), Errc::gone, "has gone");
  must_fail(bus.enable_vectors(1), Errc::gone, "has gone");
  must_fail(bus.set_vector(0, nullptr), Errc::gone, "has gone");
  must_fail(bus.reset(), Errc::gone, "has gone");
  expect(!bus.file_of(RegionIndex::bar4, {.offset = 0, .size = page_size()}), "nothing may be mapped any more");
  run_until(loop, seconds(1), [] { return false; });
  expect(observer.calls == 1, "that was told once");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: vfio_check ADDRESS\n");
    return 2;
  }
  const std::string address = argv[1];
  Loop loop;
  auto opened = vfio::KernelBus::open(loop, address);
  if (!opened) {
    say("refused", opened.error().text());
    return 1;
  }
  opened->reset();
  opened = vfio::KernelBus::open(loop, address);
  expect(opened.has_value(), "it can be opened again once it was closed");
  vfio::Bus& bus = **opened;
  Observer observer;
  bus.set_observer(&observer);
  check_config(bus);

  const Registers common = find_virtio(bus, VIRTIO_PCI_CAP_COMMON_CFG);
  auto registers = common.map_page();
  expect(registers->at(VIRTIO_PCI_COMMON_NUMQ) == 3, "a mapped page shows the registers of its place");

  const auto memory = make_region(1 << 30, kMib);
  must(bus.dma_map(memory));
  ControlQueue control(bus, memory);
  check_vectors(bus, loop, control);
  expect(control.run_command(loop, seconds(10)), "a mapped doorbell is heard, and mapped memory reached");
  check_dma(bus);
  expect(control.run_command(loop, seconds(10)), "that memory is reached, whatever else is mapped and unmapped");
  must(bus.dma_unmap(memory));
  expect(!control.run_command(loop, seconds(1)), "memory is not reached any more once it is unmapped");
  check_memory_limit(bus);
  check_reset(bus);
  expect(observer.calls == 0, "it has not gone so far");

  say("waiting", "unplug the function");
  expect(run_until(loop, seconds(20), [&] { return observer.calls != 0; }), "its end is told");
  say("told", observer.text);
  check_gone(bus, loop, observer);
  const std::filesystem::path folder = "/sys/bus/pci/devices/" + address;
  expect(std::filesystem::exists(folder), "as long as a page of it is mapped, it stays");
  registers.reset();
  control.stop();
  expect(run_until(loop, seconds(20), [&] { return !std::filesystem::exists(folder); }), "it is unplugged");
  return 0;
}

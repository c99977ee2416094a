// What vfio_check is made of: its report, registers behind a vfio::Bus, and just enough of a driver for a
// virtio-net-pci.
#pragma once

#include "base/loop.h"
#include "base/mapping.h"
#include "memory/memory_map.h"
#include "vfio/bus.h"

#include <fmt/format.h>

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>

namespace causeway::check {

inline void say(std::string_view kind, std::string_view what) {
  fmt::print("{}: {}\n", kind, what);
  std::fflush(stdout);
}

inline void expect(bool holds, std::string_view what) {
  say(holds ? "ok" : "failed", what);
  if (!holds) std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result) expect(false, result.error().text());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

inline void must_fail(const Result<void>& result, Errc code, std::string_view word) {
  if (result) expect(false, fmt::format("no error with '{}'", word));
  const std::string text = result.error().text();
  say("refused", text);
  if (result.error().code != code) expect(false, fmt::format("that error is '{}'", name_of(result.error().code)));
  if (!text.contains(word)) expect(false, fmt::format("no '{}' in that error", word));
}

/// Runs the loop until the condition holds; false: it did not within the limit.
template <class Condition>
bool run_until(Loop& loop, std::chrono::seconds limit, Condition condition) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (std::chrono::steady_clock::now() < end) {
    if (condition()) return true;
    if (!loop.run_ready()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

/// One page of a region, mapped.
class Page {
 public:
  explicit Page(const vfio::RegionFile& file)
      : memory_(::mmap(nullptr, file.size, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd.borrow(),
                       static_cast<off_t>(file.offset))),
        size_(file.size) {
    expect(memory_ != MAP_FAILED, "a page of a BAR is mapped");
  }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;
  ~Page() { ::munmap(memory_, size_); }
  volatile std::uint16_t& at(std::size_t offset) const { return *(static_cast<std::uint16_t*>(memory_) + offset / 2); }

 private:
  void* memory_;
  std::size_t size_;
};

/// Registers in a region, from `offset` on.
class Registers {
 public:
  Registers(vfio::Bus& bus, vfio::RegionIndex region, std::uint64_t offset)
      : bus_(bus), region_(region), offset_(offset) {}

  template <class T>
  T read(std::uint64_t at) const {
    T value{};
    must(bus_.read(region_, offset_ + at, std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  template <class T>
  void write(std::uint64_t at, T value) const {
    must(bus_.write(region_, offset_ + at, std::as_bytes(std::span(&value, 1))));
  }
  std::unique_ptr<Page> map_page(std::uint64_t at = 0) const {
    const auto file = bus_.file_of(region_, {.offset = offset_ + at, .size = page_size()});
    expect(file.has_value(), fmt::format("BAR {} may be mapped at {:#x}", number(region_), offset_ + at));
    expect(!bus_.file_of(region_, {.offset = offset_ + 4, .size = page_size()}), "part of a page may not be mapped");
    return std::make_unique<Page>(*file);
  }

 private:
  vfio::Bus& bus_;
  vfio::RegionIndex region_;
  std::uint64_t offset_;
};

/// Where the function has a part of its registers.
inline Registers find_virtio(vfio::Bus& bus, std::uint8_t kind) {
  const Registers config(bus, vfio::RegionIndex::config, 0);
  for (auto at = config.read<std::uint8_t>(PCI_CAPABILITY_LIST); at != 0; at = config.read<std::uint8_t>(at + 1U)) {
    if (config.read<std::uint8_t>(at) != PCI_CAP_ID_VNDR || config.read<std::uint8_t>(at + 3U) != kind) continue;
    return {bus, static_cast<vfio::RegionIndex>(config.read<std::uint8_t>(at + 4U)),
            config.read<std::uint32_t>(at + 8U)};
  }
  expect(false, fmt::format("virtio capability {} is there", kind));
  std::abort();
}

/// The driver's side of the control queue, at the start of a region that is mapped for DMA.
class ControlQueue {
 public:
  ControlQueue(vfio::Bus& bus, const memory::Region& region)
      : bus_(bus), region_(region), ring_(*static_cast<Ring*>(static_cast<void*>(region.mapping->data()))) {}

  /// Begins the function's life from reset to DRIVER_OK, with changes of its configuration on MSI-X vector 1.
  void start() {
    const Registers common = find_virtio(bus_, VIRTIO_PCI_CAP_COMMON_CFG);
    const auto set_status = [&common](std::uint8_t status) { common.write(VIRTIO_PCI_COMMON_STATUS, status); };
    constexpr std::uint8_t kDriver = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    set_status(0);
    set_status(kDriver);
    write_features(common, 0, 1U << kNetStatus | 1U << kNetControl | 1U << kNetReceiveControl);
    write_features(common, 1, 1U << (VIRTIO_F_VERSION_1 - 32) | 1U << (VIRTIO_F_ACCESS_PLATFORM - 32));
    set_status(kDriver | VIRTIO_CONFIG_S_FEATURES_OK);
    common.write<std::uint16_t>(VIRTIO_PCI_COMMON_MSIX, 1);
    common.write(VIRTIO_PCI_COMMON_Q_SELECT, kIndex);
    common.write<std::uint16_t>(VIRTIO_PCI_COMMON_Q_SIZE, kSize);
    write_address(common, VIRTIO_PCI_COMMON_Q_DESCLO, offsetof(Ring, descriptors));
    write_address(common, VIRTIO_PCI_COMMON_Q_AVAILLO, offsetof(Ring, avail));
    write_address(common, VIRTIO_PCI_COMMON_Q_USEDLO, offsetof(Ring, used));
    common.write<std::uint16_t>(VIRTIO_PCI_COMMON_Q_ENABLE, 1);
    // With page-per-vq, each queue's doorbell has a page of its own.
    const auto page = common.read<std::uint16_t>(VIRTIO_PCI_COMMON_Q_NOFF);
    doorbell_ = find_virtio(bus_, VIRTIO_PCI_CAP_NOTIFY_CFG).map_page(page * page_size());
    set_status(kDriver | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
  }

  /// Has the function go into promiscuous mode; true when it acknowledges that in the region's memory.
  bool run_command(Loop& loop, std::chrono::seconds limit) {
    const auto at = [this](std::size_t offset) { return region_.iova.value() + offset; };
    ring_.command = {0, 0, 1};  // class RX, PROMISC, on
    ring_.ack = 0xff;
    ring_.descriptors[0] = {.address = at(offsetof(Ring, command)), .size = 3, .flags = 1, .next = 1};
    ring_.descriptors[1] = {.address = at(offsetof(Ring, ack)), .size = 1, .flags = 2, .next = 0};
    const auto next = static_cast<std::uint16_t>(ring_.avail.index + 1);
    std::atomic_ref(ring_.avail.index).store(next, std::memory_order_seq_cst);
    doorbell_->at(0) = kIndex;
    return run_until(loop, limit, [&] { return std::atomic_ref(ring_.used.index).load() == next; }) && ring_.ack == 0;
  }

  /// Unmaps the doorbell.
  void stop() { doorbell_.reset(); }

 private:
  static constexpr std::uint16_t kIndex = 2;  // behind one pair of queues
  static constexpr std::uint16_t kSize = 8;
  // Bits VIRTIO_NET_F_STATUS, _CTRL_VQ, _CTRL_RX: the kernel's header is no C++.
  static constexpr unsigned kNetStatus = 16;
  static constexpr unsigned kNetControl = 17;
  static constexpr unsigned kNetReceiveControl = 18;

  struct Descriptor {
    std::uint64_t address;
    std::uint32_t size;
    std::uint16_t flags;
    std::uint16_t next;
  };
  struct Avail {
    std::uint16_t flags;
    std::uint16_t index;
    std::array<std::uint16_t, kSize + 1> entries;  // all 0: each chain begins there
  };
  struct alignas(4) Used {
    std::uint16_t flags;
    std::uint16_t index;
    std::array<std::uint32_t, 2 * kSize + 1> entries;
  };
  struct Ring {
    std::array<Descriptor, kSize> descriptors;
    Avail avail;
    Used used;
    std::array<std::uint8_t, 3> command;
    std::uint8_t ack;
  };

  static void write_features(const Registers& common, std::uint32_t half, std::uint32_t features) {
    common.write(VIRTIO_PCI_COMMON_GFSELECT, half);
    common.write(VIRTIO_PCI_COMMON_GF, features);
  }
  void write_address(const Registers& common, std::uint64_t at, std::size_t offset) const {
    const std::uint64_t address = region_.iova.value() + offset;
    common.write(at, static_cast<std::uint32_t>(address));
    common.write(at + 4, static_cast<std::uint32_t>(address >> 32));
  }

  vfio::Bus& bus_;
  const memory::Region& region_;
  Ring& ring_;
  std::unique_ptr<Page> doorbell_;
};

}  // namespace causeway::check

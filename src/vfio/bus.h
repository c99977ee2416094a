// A PCI function as its user sees it through VFIO: regions, interrupts, DMA, reset. Two sides of it are reached in
// different ways (the kernel's VFIO, a vfio-user socket), one is our own device (virtio_pci::Function); whoever drives
// a function, or serves one to others, need not know which.
// Spec: Linux Documentation/driver-api/vfio.rst, include/uapi/linux/vfio.h; libvfio-user docs/vfio-user.rst.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"
#include "memory/memory_map.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace causeway::vfio {

/// The regions of a PCI function, numbered as VFIO_PCI_*_REGION_INDEX.
enum class RegionIndex : std::uint8_t { bar0, bar1, bar2, bar3, bar4, bar5, rom, config, vga };
inline constexpr std::size_t kRegions = 9;
constexpr std::size_t number(RegionIndex region) {
  return static_cast<std::size_t>(region);
}

/// A part of a region, in bytes.
struct Area {
  std::uint64_t offset;
  std::uint64_t size;
  bool operator==(const Area&) const = default;
};

/// Value type.
struct RegionInfo {
  std::uint64_t size = 0;  ///< bytes; 0: the function has no such region
  bool readable = false;
  bool writable = false;
  std::vector<Area> mappable;  ///< parts that may be mapped, in whole pages
};

/// Addresses, both inclusive.
struct IovaRange {
  memory::Iova first;
  memory::Iova last;
};

/// What a function is; constant over its life. Value type.
struct BusInfo {
  std::string name;  ///< for people: "0000:01:00.0", the socket's path
  std::array<RegionInfo, kRegions> regions;
  std::uint32_t vectors = 0;     ///< MSI-X vectors
  bool can_reset = false;        ///< `reset` works
  std::vector<IovaRange> iovas;  ///< usable for DMA, in order; at least one

  const RegionInfo& region(RegionIndex index) const { return regions[number(index)]; }
};

/// Where bytes of a region lie in a file that may be mapped, here or by another process.
struct RegionFile {
  const OwnedFd& fd;
  std::uint64_t offset;
  std::uint64_t size;
};

/// One access to a register, of 1, 2, 4 or 8 bytes. Value type.
struct Access {
  RegionIndex region;
  std::uint64_t offset;
  bool is_write;
  std::uint8_t size;
  std::array<std::byte, 8> value;  ///< what is written, or where what was read lies then

  std::span<std::byte> bytes() { return std::span(value).first(size); }
};

/// What a function tells its user by itself. Called on the control thread, never from within a call of the user's.
class BusObserver {
 public:
  virtual ~BusObserver() = default;
  /// The function is wanted back, and goes when this returns. Until then it works and answers: what it is at should be
  /// stopped now. Called from the loop, not from within a call; must not destroy the Bus.
  virtual void bus_wanted_back() {}
  /// The function works no more: unplugged, or its process died. It touches no memory any more.
  virtual void bus_gone(Error reason) = 0;
};

/// Thread: control. Every call fails with Errc::gone once the function has gone.
class Bus {
 public:
  virtual ~Bus() = default;

  virtual const BusInfo& info() const = 0;
  virtual void set_observer(BusObserver* observer) = 0;

  /// Registers have side effects: each call is one access of `size()` bytes, which is 1, 2, 4 or 8 where the function
  /// cares. Errc::invalid_value: the range is not in the region, or cannot be read or written.
  virtual Result<void> read(RegionIndex region, std::uint64_t offset, std::span<std::byte> to) = 0;
  virtual Result<void> write(RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) = 0;
  /// Does these in their order, each as `read` and `write` do. The first that fails is told of; those behind it may
  /// have been done all the same: where a function is reached by messages, several are under way at a time, so that
  /// many accesses take as long as one.
  virtual Result<void> access(std::span<Access> accesses) {
    for (Access& each : accesses) {
      CW_CHECK(each.is_write ? write(each.region, each.offset, each.bytes())
                             : read(each.region, each.offset, each.bytes()));
    }
    return {};
  }
  /// Nothing when those bytes may not be mapped. The descriptor stays the Bus's, and open as long as that lives.
  virtual std::optional<RegionFile> file_of(RegionIndex region, Area area) const = 0;

  /// The VFIO group that the kernel has put the function in; nullptr: there is none, or not any more. The descriptor
  /// stays the Bus's. Whoever has it can open the function too.
  virtual const OwnedFd* group() const { return nullptr; }

  /// Lets the function reach the region's memory at its IOVA. Errc::invalid_value: the IOVA is not usable, overlaps, or
  /// is not aligned to pages; Errc::system: the memory cannot be pinned (the text says which limit).
  virtual Result<void> dma_map(const memory::Region& region) = 0;
  /// Ends that; after return the function reaches it no more. Errc::not_found: it is not mapped.
  virtual Result<void> dma_unmap(const memory::Region& region) = 0;

  /// Enables MSI-X with `count` vectors, none of which has an eventfd yet; 0 disables it.
  virtual Result<void> enable_vectors(std::uint32_t count) = 0;
  /// What the vector signals from now on; nullptr: nothing. Errc::invalid_value: it is not enabled.
  virtual Result<void> set_vector(std::uint32_t vector, const OwnedFd* event) = 0;

  /// Resets the function as a bus does: interrupts are disabled, DMA maps stay. Errc::not_supported: it cannot.
  virtual Result<void> reset() = 0;
};

}  // namespace causeway::vfio

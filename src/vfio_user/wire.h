// Messages as they lie on the socket, in the machine's own byte order.
// Spec: libvfio-user docs/vfio-user.rst (also QEMU docs/interop/vfio-user.rst); linux/vfio.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace causeway::vfio_user {

enum class Command : std::uint16_t {
  version = 1,
  dma_map = 2,
  dma_unmap = 3,
  device_get_info = 4,
  device_get_region_info = 5,
  device_get_region_io_fds = 6,
  device_get_irq_info = 7,
  device_set_irqs = 8,
  region_read = 9,
  region_write = 10,
  dma_read = 11,   // server to client
  dma_write = 12,  // server to client
  device_reset = 13,
};

namespace wire {

struct Header {
  std::uint16_t id;
  std::uint16_t command;
  std::uint32_t size;  ///< of the whole message, this header included
  std::uint32_t flags;
  std::uint32_t error;  ///< errno, in a reply with kError
};
static_assert(sizeof(Header) == 16);
inline constexpr std::uint32_t kTypeMask = 0xf;
inline constexpr std::uint32_t kReply = 0x1;
inline constexpr std::uint32_t kNoReply = 0x10;
inline constexpr std::uint32_t kError = 0x20;

/// Followed by JSON with a terminating NUL.
struct Version {
  std::uint16_t major;
  std::uint16_t minor;
};
inline constexpr std::uint16_t kMajor = 0;
inline constexpr std::uint16_t kMinor = 1;

struct DmaMap {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t offset;
  std::uint64_t address;
  std::uint64_t size;
};
static_assert(sizeof(DmaMap) == 32);
inline constexpr std::uint32_t kDmaRead = 1;
inline constexpr std::uint32_t kDmaWrite = 2;

struct DmaUnmap {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t address;
  std::uint64_t size;
};
static_assert(sizeof(DmaUnmap) == 24);
inline constexpr std::uint32_t kUnmapDirtyBitmap = 1;
inline constexpr std::uint32_t kUnmapAll = 2;

struct DeviceInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t regions;
  std::uint32_t irqs;
};
static_assert(sizeof(DeviceInfo) == 16);
inline constexpr std::uint32_t kDeviceReset = 1;
inline constexpr std::uint32_t kDevicePci = 2;
inline constexpr std::uint32_t kPciRegions = 9;
inline constexpr std::uint32_t kPciIrqs = 5;

struct RegionInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t index;
  std::uint32_t cap_offset;  ///< from the start of this structure
  std::uint64_t size;
  std::uint64_t offset;  ///< in the descriptor that comes along
};
static_assert(sizeof(RegionInfo) == 32);
inline constexpr std::uint32_t kRegionRead = 1;
inline constexpr std::uint32_t kRegionWrite = 2;
inline constexpr std::uint32_t kRegionMmap = 4;
inline constexpr std::uint32_t kRegionCaps = 8;

struct CapHeader {
  std::uint16_t id;
  std::uint16_t version;
  std::uint32_t next;  ///< from the start of RegionInfo; 0: the last
};
static_assert(sizeof(CapHeader) == 8);
inline constexpr std::uint16_t kCapSparseMmap = 1;

/// Behind the CapHeader; followed by the areas.
struct SparseMmap {
  std::uint32_t areas;
  std::uint32_t reserved;
};
struct SparseArea {
  std::uint64_t offset;
  std::uint64_t size;
};

struct IrqInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t index;
  std::uint32_t count;
};
static_assert(sizeof(IrqInfo) == 16);
inline constexpr std::uint32_t kIrqEventfd = 1;
inline constexpr std::uint32_t kIrqNoResize = 8;
inline constexpr std::uint32_t kMsixIndex = 2;

/// Followed by one byte for each interrupt with kSetDataBool.
struct IrqSet {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t index;
  std::uint32_t start;
  std::uint32_t count;
};
static_assert(sizeof(IrqSet) == 20);
inline constexpr std::uint32_t kSetDataNone = 1;
inline constexpr std::uint32_t kSetDataBool = 2;
inline constexpr std::uint32_t kSetDataEventfd = 4;
inline constexpr std::uint32_t kSetDataMask = 7;
inline constexpr std::uint32_t kSetActionTrigger = 0x20;
inline constexpr std::uint32_t kSetActionMask = 0x38;

/// Followed by the data.
struct RegionAccess {
  std::uint64_t offset;
  std::uint32_t region;
  std::uint32_t count;
};
static_assert(sizeof(RegionAccess) == 16);

/// Followed by the data.
struct DmaAccess {
  std::uint64_t address;
  std::uint64_t count;
};
static_assert(sizeof(DmaAccess) == 16);

}  // namespace wire
}  // namespace causeway::vfio_user

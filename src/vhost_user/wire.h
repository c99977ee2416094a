// Payloads as they lie on the socket, in the machine's own byte order.
// Spec: QEMU docs/interop/vhost-user.rst, "Message Specification".
#pragma once

#include <array>
#include <cstdint>

namespace causeway::vhost_user::wire {

struct Header {
  std::uint32_t request;
  std::uint32_t flags;
  std::uint32_t size;  ///< of the payload, bytes
};
static_assert(sizeof(Header) == 12);

inline constexpr std::uint32_t kVersionMask = 0x3;
inline constexpr std::uint32_t kVersion = 0x1;
inline constexpr std::uint32_t kReplyFlag = 0x4;
inline constexpr std::uint32_t kNeedReplyFlag = 0x8;

struct VringState {
  std::uint32_t index;
  std::uint32_t number;
};
static_assert(sizeof(VringState) == 8);

struct VringAddr {
  std::uint32_t index;
  std::uint32_t flags;
  std::uint64_t descriptors;
  std::uint64_t used;
  std::uint64_t available;
  std::uint64_t log;
};
static_assert(sizeof(VringAddr) == 40);
inline constexpr std::uint32_t kVringAddrLog = 0x1;  ///< VHOST_VRING_F_LOG

struct LogArea {
  std::uint64_t size;
  std::uint64_t offset;
};
static_assert(sizeof(LogArea) == 16);

/// struct vhost_iotlb_msg of linux/vhost_types.h; the bytes behind `type` may be missing.
struct Iotlb {
  std::uint64_t iova;
  std::uint64_t size;
  std::uint64_t user_address;
  std::uint8_t access;  ///< memory::Access
  std::uint8_t type;
  std::array<std::uint8_t, 6> padding;
};
static_assert(sizeof(Iotlb) == 32);
inline constexpr std::uint8_t kIotlbMiss = 1;
inline constexpr std::uint8_t kIotlbUpdate = 2;
inline constexpr std::uint8_t kIotlbInvalidate = 3;

inline constexpr std::uint64_t kVringFdIndexMask = 0xff;
inline constexpr std::uint64_t kVringFdNone = 0x100;

struct VringArea {
  std::uint64_t queue;  ///< index and bit 8, as in SET_VRING_KICK
  std::uint64_t size;
  std::uint64_t offset;
};
static_assert(sizeof(VringArea) == 24);

struct VringGroup {
  std::uint32_t queue;  ///< index
  std::uint32_t flags;
};
static_assert(sizeof(VringGroup) == 8);
inline constexpr std::uint32_t kVringGroupComes = 0x1;  ///< a descriptor comes along; else the group is withdrawn

struct Region {
  std::uint64_t guest_address;
  std::uint64_t size;
  std::uint64_t user_address;
  std::uint64_t mmap_offset;
};
static_assert(sizeof(Region) == 32);

struct MemoryTableHead {
  std::uint32_t count;
  std::uint32_t padding;
};
static_assert(sizeof(MemoryTableHead) == 8);

struct MemoryRegion {
  std::uint64_t padding;
  Region region;
};
static_assert(sizeof(MemoryRegion) == 40);

struct ConfigHead {
  std::uint32_t offset;
  std::uint32_t size;
  std::uint32_t flags;
};
static_assert(sizeof(ConfigHead) == 12);
inline constexpr std::uint32_t kConfigWritable = 0;   ///< the guest wrote: writable fields only
inline constexpr std::uint32_t kConfigMigration = 1;  ///< the front-end restores a migrated device: any field

struct DeviceStateTransfer {
  std::uint32_t direction;
  std::uint32_t phase;
};
static_assert(sizeof(DeviceStateTransfer) == 8);
inline constexpr std::uint32_t kStateSave = 0;           ///< from the back-end to the front-end
inline constexpr std::uint32_t kStateLoad = 1;           ///< the other way
inline constexpr std::uint32_t kStateStopped = 0;        ///< the phase in which no ring runs: there is no other
inline constexpr std::uint64_t kStateNoChannel = 0x100;  ///< in the reply: the front-end's descriptor is the one in use

}  // namespace causeway::vhost_user::wire

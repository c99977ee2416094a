// A modern virtio-pci function as it lies in configuration space and BARs. Little-endian throughout.
// Spec: virtio 1.3 section 4.1; PCI Local Bus 3.0 chapter 6. The ring-state capability is ours:
// docs/wire/virtio-pci.md.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace causeway::virtio_pci {

static_assert(std::endian::native == std::endian::little, "registers are read and written as they lie");

// --- Configuration space (PCI 3.0 6.1) ------------------------------------------------------------------------------

inline constexpr std::uint16_t kVendorId = 0x00;
inline constexpr std::uint16_t kDeviceId = 0x02;
inline constexpr std::uint16_t kCommand = 0x04;
inline constexpr std::uint16_t kStatus = 0x06;
inline constexpr std::uint16_t kRevision = 0x08;
inline constexpr std::uint16_t kClass = 0x0a;  ///< subclass, then base class
inline constexpr std::uint16_t kBar0 = 0x10;
inline constexpr std::uint16_t kSubsystemVendorId = 0x2c;
inline constexpr std::uint16_t kSubsystemId = 0x2e;
inline constexpr std::uint16_t kCapabilities = 0x34;
inline constexpr std::uint16_t kInterruptLine = 0x3c;
inline constexpr std::size_t kConfigSpaceBytes = 256;

inline constexpr std::uint16_t kCommandMemory = 0x2;
inline constexpr std::uint16_t kCommandBusMaster = 0x4;
inline constexpr std::uint16_t kStatusCapabilities = 0x10;
inline constexpr std::uint32_t kBarMemory64 = 0x4;

inline constexpr std::uint16_t kVirtioVendor = 0x1af4;
inline constexpr std::uint16_t kModernDevice = 0x1040;  ///< and the virtio device type (4.1.2)
inline constexpr std::uint16_t kTransitionalNet = 0x1000;
inline constexpr std::uint16_t kTransitionalBlock = 0x1001;

inline constexpr std::uint8_t kCapVendor = 0x09;
inline constexpr std::uint8_t kCapMsix = 0x11;

struct MsixCap {
  std::uint8_t id;
  std::uint8_t next;
  std::uint16_t control;  ///< table size minus one; enable in bit 15, mask in bit 14
  std::uint32_t table;    ///< offset, with the BAR in bits 0 to 2
  std::uint32_t pending;
};
static_assert(sizeof(MsixCap) == 12);
inline constexpr std::size_t kMsixEntryBytes = 16;

// --- Virtio capabilities (4.1.4) ------------------------------------------------------------------------------------

enum class CfgType : std::uint8_t { common = 1, notify = 2, isr = 3, device = 4, pci = 5, vendor = 9 };

struct VirtioCap {
  std::uint8_t id;
  std::uint8_t next;
  std::uint8_t length;
  std::uint8_t cfg_type;
  std::uint8_t bar;
  std::uint8_t instance;
  std::uint8_t padding[2];
  std::uint32_t offset;  ///< in the BAR
  std::uint32_t bytes;
};
static_assert(sizeof(VirtioCap) == 16);

struct NotifyCap {
  VirtioCap cap;
  std::uint32_t multiplier;  ///< of queue_notify_off
};
static_assert(sizeof(NotifyCap) == 20);

struct PciCfgCap {
  VirtioCap cap;
  std::uint8_t data[4];
};
static_assert(sizeof(PciCfgCap) == 20);

/// Ours: where a driver learns a ring's position and what is in flight in it.
struct RingStateCap {
  std::uint8_t id;
  std::uint8_t next;
  std::uint8_t length;
  std::uint8_t cfg_type;    ///< CfgType::vendor
  std::uint16_t vendor_id;  ///< kVirtioVendor
  std::uint8_t version;     ///< kRingStateVersion
  std::uint8_t bar;
  std::uint32_t magic;   ///< kRingStateMagic
  std::uint32_t offset;  ///< of the RingStateCfg in the BAR
};
static_assert(sizeof(RingStateCap) == 16);
inline constexpr std::uint32_t kRingStateMagic = 0x53525743;  // "CWRS"
inline constexpr std::uint8_t kRingStateVersion = 1;

// --- Registers in BARs ----------------------------------------------------------------------------------------------

/// 4.1.4.3.
struct CommonCfg {
  std::uint32_t device_feature_select;
  std::uint32_t device_feature;
  std::uint32_t driver_feature_select;
  std::uint32_t driver_feature;
  std::uint16_t config_msix_vector;
  std::uint16_t num_queues;
  std::uint8_t device_status;
  std::uint8_t config_generation;
  std::uint16_t queue_select;
  std::uint16_t queue_size;
  std::uint16_t queue_msix_vector;
  std::uint16_t queue_enable;
  std::uint16_t queue_notify_off;
  std::uint64_t queue_desc;
  std::uint64_t queue_driver;
  std::uint64_t queue_device;
  std::uint16_t queue_notify_config_data;
  std::uint16_t queue_reset;
  std::uint16_t admin_queue_index;
  std::uint16_t admin_queue_num;
};
static_assert(sizeof(CommonCfg) == 64);
inline constexpr std::uint16_t kNoVector = 0xffff;

inline constexpr std::uint8_t kIsrQueue = 1;
inline constexpr std::uint8_t kIsrConfig = 2;

/// Ours. Records lie one behind the other in the BAR `record_bar` at `record_offset`, each
/// virtio::InflightArea::size(layout, record_entries) bytes, and behind them, where there is room, their logs: all is
/// as virtio::InflightRegion has it. Queues of another size have none.
struct RingStateCfg {
  std::uint16_t record_entries;  ///< written by the driver before any queue is enabled; reads 0 when refused
  std::uint16_t queue_select;
  std::uint16_t queue_stop;  ///< of the selected queue; StopCommand; reads 0 when it has stopped
  std::uint8_t record_bar;
  std::uint8_t padding;
  std::uint64_t record_offset;
  std::uint64_t record_bytes;  ///< there is room for
};
static_assert(sizeof(RingStateCfg) == 24);
inline constexpr std::uint16_t kStopLeave = 1;  ///< what is in flight stays in the record
inline constexpr std::uint16_t kStopDrain = 2;
inline constexpr std::uint16_t kStopFailed = 0xffff;

}  // namespace causeway::virtio_pci

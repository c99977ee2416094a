// The block device's numbers and layouts. Spec: virtio 1.3 section 5.2.
#pragma once

#include <cstddef>
#include <cstdint>

namespace causeway::virtio {

enum class BlkFeature : unsigned {
  size_max = 1,
  seg_max = 2,
  geometry = 4,
  ro = 5,
  blk_size = 6,
  flush = 9,
  topology = 10,
  config_wce = 11,
  mq = 12,
  discard = 13,
  write_zeroes = 14,
  lifetime = 15,
  secure_erase = 16,
  zoned = 17,
};

/// Unit of all positions and capacities, whatever the block size (5.2.4).
inline constexpr std::uint32_t kSectorSize = 512;

/// Device configuration space (5.2.4) to its end; what we do not offer stays zero. Little-endian.
struct BlkConfig {
  std::uint64_t capacity;  ///< sectors
  std::uint32_t size_max;
  std::uint32_t seg_max;
  std::uint16_t cylinders;
  std::uint8_t heads;
  std::uint8_t sectors;
  std::uint32_t blk_size;
  std::uint8_t physical_block_exp;  ///< log2 of logical blocks per physical block
  std::uint8_t alignment_offset;
  std::uint16_t min_io_size;  ///< logical blocks
  std::uint32_t opt_io_size;  ///< logical blocks
  std::uint8_t writeback;     ///< written by a driver with CONFIG_WCE
  std::uint8_t unused0;
  std::uint16_t num_queues;
  std::uint32_t max_discard_sectors;
  std::uint32_t max_discard_seg;
  std::uint32_t discard_sector_alignment;
  std::uint32_t max_write_zeroes_sectors;
  std::uint32_t max_write_zeroes_seg;
  std::uint8_t write_zeroes_may_unmap;
  std::uint8_t unused1[3];
  std::uint32_t max_secure_erase_sectors;
  std::uint32_t max_secure_erase_seg;
  std::uint32_t secure_erase_sector_alignment;
  std::uint32_t zoned[6];
};
static_assert(sizeof(BlkConfig) == 96 && offsetof(BlkConfig, writeback) == 32 &&
              offsetof(BlkConfig, write_zeroes_may_unmap) == 56);

/// What a request asks for (5.2.6).
enum class BlkRequestType : std::uint32_t {
  in = 0,
  out = 1,
  flush = 4,
  get_id = 8,
  discard = 11,
  write_zeroes = 13,
};

/// First 16 readable bytes of a request.
struct BlkRequestHeader {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};
static_assert(sizeof(BlkRequestHeader) == 16);

/// Last writable byte of a request.
enum class BlkStatus : std::uint8_t { ok = 0, ioerr = 1, unsupp = 2 };

/// Data of a discard or write-zeroes request (5.2.6).
struct BlkRange {
  std::uint64_t sector;
  std::uint32_t sectors;
  std::uint32_t flags;
};
static_assert(sizeof(BlkRange) == 16);
inline constexpr std::uint32_t kBlkRangeUnmap = 1;  ///< of write-zeroes only

/// Bytes of the answer to get_id; a shorter serial number is filled with zeros.
inline constexpr std::size_t kBlkIdSize = 20;

}  // namespace causeway::virtio

// One request of the block device: from a chain to an operation on the store. Spec: virtio 1.3 section 5.2.6.
#pragma once

#include "virtio/blk.h"
#include "virtio/chain.h"

#include <array>
#include <cstddef>
#include <cstdint>

#include "blk/store.h"

namespace causeway::blk {

using SerialNumber = std::array<std::byte, virtio::kBlkIdSize>;

/// Largest range of one discard or write-zeroes request, in sectors.
inline constexpr std::uint32_t kMaxDiscardSectors = 1U << 21;
inline constexpr std::uint32_t kMaxWriteZeroesSectors = 1U << 17;

/// What a request is checked against. Value type.
struct RequestRules {
  std::uint64_t capacity;    ///< bytes
  std::uint32_t block_size;  ///< bytes; offsets and lengths must be multiples of it
  bool is_read_only;
  bool discards;       ///< negotiated
  bool writes_zeroes;  ///< negotiated
};

/// A request under way, and what is done for it. Reused; its vectors keep their room.
struct Request : Operation {
  virtio::Chain chain;
  memory::GuestSpan status;        ///< its last writable byte
  std::size_t place = 0;           ///< among those under way
  std::uint64_t data_written = 0;  ///< writable bytes filled when it succeeds
  bool changes = false;            ///< it is a write, a discard or write-zeroes
  bool is_flushing = false;        ///< done, but for being made durable

  /// Bytes written from the start of the writable part, for the used ring.
  std::uint32_t used_length(virtio::BlkStatus outcome) const;
};

enum class Verdict : std::uint8_t {
  operate,      ///< the operation is to be done
  done,         ///< answered already, with success
  io_error,     ///< to be answered with IOERR
  unsupported,  ///< to be answered with UNSUPP
  unusable,     ///< there is no place for an answer: the ring is broken
};

/// Reads the request that lies in `chain`, whose segments are in `batch`. Everything is read once. The memory that
/// `request` refers to afterwards is the guest's.
Verdict read_request(const virtio::ChainBatch& batch, const virtio::Chain& chain, const RequestRules& rules,
                     const SerialNumber& serial, Request& request);

}  // namespace causeway::blk

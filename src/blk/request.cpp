#include "blk/request.h"

#include <algorithm>
#include <limits>
#include <span>

namespace causeway::blk {
namespace {

using memory::GuestSpan;
using virtio::BlkRequestType;
using virtio::kSectorSize;

/// Copies the bytes of `segments` that follow the first `skip`; there are enough.
template <class T>
T fetch_from(std::span<const GuestSpan> segments, std::size_t skip) {
  if (segments.front().size() >= skip + sizeof(T)) return segments.front().fetch<T>(skip);
  T value{};
  auto to = std::as_writable_bytes(std::span(&value, 1));
  for (const GuestSpan& segment : segments) {
    if (skip >= segment.size()) {
      skip -= segment.size();
      continue;
    }
    const std::size_t count = std::min(segment.size() - skip, to.size());
    segment.read(skip, to.first(count));
    to = to.subspan(count);
    skip = 0;
    if (to.empty()) break;
  }
  return value;
}

/// Appends the `length` bytes of `segments` that follow the first `skip`.
void append_part(std::vector<GuestSpan>& to, std::span<const GuestSpan> segments, std::uint64_t skip,
                 std::uint64_t length) {
  for (const GuestSpan& segment : segments) {
    if (length == 0) return;
    if (skip >= segment.size()) {
      skip -= segment.size();
      continue;
    }
    const std::uint64_t count = std::min<std::uint64_t>(segment.size() - skip, length);
    to.push_back(segment.subspan(skip, count));
    length -= count;
    skip = 0;
  }
}

/// Whether a range of the disk may be touched; then it becomes the operation's.
bool set_range(Operation& operation, std::uint64_t sector, std::uint64_t length, const RequestRules& rules) {
  if (sector > rules.capacity / kSectorSize) return false;
  const std::uint64_t offset = sector * kSectorSize;
  if (length > rules.capacity - offset) return false;
  if (length % kSectorSize != 0 || length % rules.block_size != 0 || offset % rules.block_size != 0) return false;
  operation.offset = offset;
  operation.length = length;
  return true;
}

Verdict read_transfer(std::span<const GuestSpan> segments, std::uint64_t skip, std::uint64_t length,
                      std::uint64_t sector, const RequestRules& rules, Request& request) {
  if (!set_range(request, sector, length, rules)) return Verdict::io_error;
  append_part(request.data, segments, skip, length);
  return length == 0 ? Verdict::done : Verdict::operate;
}

/// The range of a discard or write-zeroes request; we take one per request (max_discard_seg is 1).
Verdict read_range(std::span<const GuestSpan> data, std::uint64_t length, bool is_discard, const RequestRules& rules,
                   Request& request) {
  if (length != sizeof(virtio::BlkRange)) return Verdict::io_error;
  const auto range = fetch_from<virtio::BlkRange>(data, sizeof(virtio::BlkRequestHeader));
  const std::uint32_t allowed = is_discard ? 0 : virtio::kBlkRangeUnmap;
  if ((range.flags & ~allowed) != 0) return Verdict::unsupported;
  if (range.sectors > (is_discard ? kMaxDiscardSectors : kMaxWriteZeroesSectors)) return Verdict::io_error;
  const std::uint64_t bytes = std::uint64_t{range.sectors} * kSectorSize;
  if (!set_range(request, range.sector, bytes, rules)) return Verdict::io_error;
  using enum Operation::Kind;
  request.kind = is_discard ? discard : range.flags != 0 ? unmap : zero;
  return bytes == 0 ? Verdict::done : Verdict::operate;
}

Verdict write_serial(std::span<const GuestSpan> data, std::uint64_t length, const SerialNumber& serial,
                     Request& request) {
  const std::size_t count = std::min<std::uint64_t>(length, serial.size());
  std::span rest = std::span(serial).first(count);
  for (const GuestSpan& segment : data) {
    const auto part = rest.first(std::min(segment.size(), rest.size()));
    segment.write(0, part);
    rest = rest.subspan(part.size());
  }
  request.data_written = count;
  return Verdict::done;
}

}  // namespace

std::uint32_t Request::used_length(virtio::BlkStatus outcome) const {
  // The status is the last writable byte; it counts when all before it has been written.
  const std::uint64_t before = chain.writable_bytes - 1;
  const std::uint64_t written = outcome == virtio::BlkStatus::ok ? data_written : 0;
  const std::uint64_t all = written == before ? written + 1 : written;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(all, std::numeric_limits<std::uint32_t>::max()));
}

Verdict read_request(const virtio::ChainBatch& batch, const virtio::Chain& chain, const RequestRules& rules,
                     const SerialNumber& serial, Request& request) {
  request.chain = chain;
  request.data_written = 0;
  request.changes = false;
  request.is_flushing = false;
  request.data.clear();
  request.offset = 0;
  request.length = 0;
  request.error = 0;
  constexpr std::uint64_t kHead = sizeof(virtio::BlkRequestHeader);
  if (chain.readable_bytes < kHead || chain.writable_bytes < 1) return Verdict::unusable;
  const auto readable = batch.readable(chain);
  const auto writable = batch.writable(chain);
  const GuestSpan& last = writable.back();
  request.status = last.subspan(last.size() - 1, 1);
  const auto header = fetch_from<virtio::BlkRequestHeader>(readable, 0);
  const std::uint64_t sent = chain.readable_bytes - kHead;
  const std::uint64_t asked = chain.writable_bytes - 1;
  using enum Operation::Kind;
  switch (static_cast<BlkRequestType>(header.type)) {
    case BlkRequestType::in:
      request.kind = read;
      request.data_written = asked;
      return read_transfer(writable, 0, asked, header.sector, rules, request);
    case BlkRequestType::out:
      request.kind = write;
      request.changes = true;
      if (rules.is_read_only) return Verdict::io_error;
      return read_transfer(readable, kHead, sent, header.sector, rules, request);
    case BlkRequestType::flush:
      request.kind = flush;
      return Verdict::operate;
    case BlkRequestType::get_id:
      return write_serial(writable, asked, serial, request);
    case BlkRequestType::discard:
    case BlkRequestType::write_zeroes: {
      const bool is_discard = static_cast<BlkRequestType>(header.type) == BlkRequestType::discard;
      if (!(is_discard ? rules.discards : rules.writes_zeroes)) return Verdict::unsupported;
      if (rules.is_read_only) return Verdict::io_error;
      request.changes = true;
      return read_range(readable, sent, is_discard, rules, request);
    }
  }
  return Verdict::unsupported;
}

}  // namespace causeway::blk

// Requests made of arbitrary bytes, cut into arbitrary pieces: nothing outside the pieces is touched.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "blk/request.h"

namespace causeway::blk {
namespace {

/// Cuts what it is given by the sizes that its first bytes name.
class Pieces {
 public:
  explicit Pieces(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  std::uint8_t next() {
    if (bytes_.empty()) return 0;
    const std::uint8_t value = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return value;
  }
  /// A piece of its own allocation, so that AddressSanitizer sees a step outside.
  std::span<std::byte> piece(std::vector<std::unique_ptr<std::byte[]>>& keep) {
    const std::size_t size = next() % 40U + 1;
    keep.push_back(std::make_unique<std::byte[]>(size));
    std::span<std::byte> memory(keep.back().get(), size);
    for (std::byte& byte : memory) byte = static_cast<std::byte>(next());
    return memory;
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

void run(std::span<const std::uint8_t> input) {
  Pieces pieces(input);
  std::vector<std::unique_ptr<std::byte[]>> keep;
  virtio::ChainBatch batch;
  virtio::Chain& chain = batch.begin();
  const unsigned readable = pieces.next() % 5U;
  const unsigned writable = pieces.next() % 5U;
  for (unsigned i = 0; i < readable + writable; ++i) {
    const auto piece = pieces.piece(keep);
    batch.append(memory::GuestSpan::over(piece));
    (i < readable ? chain.readable_bytes : chain.writable_bytes) += piece.size();
  }
  chain.readable = readable;
  chain.writable = writable;
  batch.commit();
  const RequestRules rules{.capacity = std::uint64_t{pieces.next()} << 12,
                           .block_size = 512,
                           .is_read_only = pieces.next() % 2 != 0,
                           .discards = true,
                           .writes_zeroes = true};
  Request request;
  const Verdict verdict = read_request(batch, batch[0], rules, SerialNumber{}, request);
  if (verdict == Verdict::unusable) return;
  if (verdict == Verdict::operate && request.kind != Operation::Kind::flush &&
      (request.offset > rules.capacity || request.length > rules.capacity - request.offset)) {
    __builtin_trap();
  }
  request.status.put(0, std::uint8_t{0});
  if (request.used_length(virtio::BlkStatus::ok) > chain.writable_bytes) __builtin_trap();
  for (const memory::GuestSpan& span : request.data) {
    if (request.kind == Operation::Kind::read) {
      span.write(0, std::vector<std::byte>(span.size()));
    } else {
      std::vector<std::byte> copy(span.size());
      span.read(0, copy);
    }
  }
}

}  // namespace
}  // namespace causeway::blk

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  causeway::blk::run({data, size});
  return 0;
}

// Any frame, with any hash types and key: nothing outside the frame is read, and the result is of a type that was asked
// for. Input: types (4 bytes), key (40 bytes), frame.

#include "net/hash_layout.h"
#include "net/little_endian.h"
#include "net/rss_hash.h"

#include <cstdlib>
#include <span>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace causeway;

void require(bool holds) {
  if (!holds) std::abort();
}

void check_layout(const net::HashLayout& layout, std::size_t size) {
  const std::size_t address = layout.is_ipv6 ? 16 : 4;
  require(layout.source + address <= size && layout.destination + address <= size);
  if (layout.transport != net::Transport::none) require(layout.ports + 4 <= size);
  if (layout.home_address) require(layout.is_ipv6 && *layout.home_address + 16 <= size);
  if (layout.final_address) require(layout.is_ipv6 && *layout.final_address + 16 <= size);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kFrame = 4 + net::Toeplitz::kMaxKey;
  const auto bytes = std::as_bytes(std::span(data, size));
  if (size < kFrame) return 0;
  const std::uint32_t types = net::le32(bytes) & net::RssHash::kSupportedTypes;
  const net::RssHash hash(types, bytes.subspan(4, net::Toeplitz::kMaxKey));
  // A copy of its own, so that a byte read behind it is noticed.
  const std::vector<std::byte> frame(bytes.begin() + kFrame, bytes.end());
  if (const auto layout = net::find_hash_layout(frame)) check_layout(*layout, frame.size());
  const auto result = hash.compute(frame);
  const auto report = static_cast<unsigned>(result.report);
  // The reports are numbered as the types' bits are, from 1.
  require(report == 0 ? result.value == 0 : (types >> (report - 1) & 1) != 0);
  return 0;
}

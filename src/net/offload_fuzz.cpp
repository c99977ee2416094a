// Any header over any bytes, for senders and receivers of every kind: nothing outside the frame is read, and what comes
// out is what the receiver can take, carries the frame's bytes, and has lengths and checksums that hold.

#include "net/big_endian.h"
#include "net/offload.h"

#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace causeway;
using virtio::FeatureSet, virtio::NetFeature, virtio::NetHeader;

struct Input {
  NetHeader header;
  std::uint32_t receiver;  ///< low feature bits; the two highest stand for USO4 and USO6
};

FeatureSet receiver_of(const Input& input) {
  constexpr auto kUso4 = static_cast<unsigned>(NetFeature::guest_uso4);
  return FeatureSet((input.receiver & 0x3fffffffU) | std::uint64_t{input.receiver >> 30} << kUso4);
}

void require(bool holds) {
  if (!holds) std::abort();
}

void check_segment(const net::PacketLayout& layout, std::span<const std::byte> part) {
  require(part.size() > layout.payload);
  const std::size_t said = net::be16(part, layout.ip + (layout.is_ipv6 ? 4 : 2));
  require(said == part.size() - layout.ip - (layout.is_ipv6 ? 40 : 0));
  if (!layout.is_ipv6) require(net::internet_sum(part.subspan(layout.ip, layout.transport - layout.ip)) == 0xffff);
}

void check(const Input& input, std::vector<std::byte> frame) {
  NetHeader header = input.header;
  const auto length = static_cast<std::uint32_t>(frame.size());
  if (net::check_header(header, length, FeatureSet(~0ULL)) != net::HeaderFault::none) return;
  require((header.flags & ~virtio::kNetHeaderNeedsCsum) == 0);
  const FeatureSet receiver = receiver_of(input);
  if (!net::needs_resolution(header, receiver)) return;
  const bool is_cut = header.gso_type != virtio::kGsoNone;
  const auto layout = is_cut ? net::find_layout(header, frame) : std::nullopt;
  std::size_t count = 0;
  std::size_t carried = 0;
  net::Resolver resolver;
  const bool done = resolver.resolve(header, frame, receiver, [&](const NetHeader& out, auto part) {
    require(part.size() <= length && !net::needs_resolution(out, receiver));
    NetHeader checked = out;
    require(net::check_header(checked, static_cast<std::uint32_t>(part.size()), FeatureSet(~0ULL)) ==
            net::HeaderFault::none);
    ++count;
    if (!is_cut) return;
    require(layout.has_value());
    check_segment(*layout, part);
    carried += part.size() - layout->payload;
  });
  require(done == (count > 0) && count <= net::Resolver::kMaxSegments);
  require(!done || !is_cut || carried == length - layout->payload);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input;
  if (size < sizeof input + 14) return 0;
  std::memcpy(&input, data, sizeof input);
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(sizeof input);
  check(input, {bytes.begin(), bytes.end()});
  return 0;
}

// Any header over any bytes, for receivers of every kind: nothing outside the frame is read, and every segment is sane.

#include "net/offload.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace causeway;
  struct Input {
    virtio::NetHeader header;
    std::uint32_t receiver;
  } input;
  if (size < sizeof input + 14) return 0;
  std::memcpy(&input, data, sizeof input);
  const auto* bytes = std::bit_cast<const std::byte*>(data) + sizeof input;
  std::vector<std::byte> frame(bytes, bytes + (size - sizeof input));
  const virtio::FeatureSet everything(~0ULL);
  const auto length = static_cast<std::uint32_t>(frame.size());
  if (net::check_header(input.header, length, everything) != net::HeaderFault::none) return 0;
  const virtio::FeatureSet receiver(input.receiver);
  if (!net::needs_resolution(input.header, receiver)) return 0;
  net::Resolver resolver;
  resolver.resolve(input.header, frame, receiver,
                   [&](const virtio::NetHeader& header, std::span<const std::byte> part) {
                     if (part.size() > length || net::needs_resolution(header, receiver)) std::abort();
                   });
  return 0;
}

// States of arbitrary contents under a head that is right: refused, or exactly what is written again.
#include "port/device_state.h"
#include "port/sealed.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace causeway;
  const auto input = std::as_bytes(std::span(data, size));
  const auto bytes = port::seal({.magic = 0x53445743, .first = 1, .last = 1, .name = {}}, 1, input);
  const auto state = port::decode_device_state(bytes);
  if (state && port::encode(*state) != bytes) std::abort();
  // As it comes, too: nearly always no state at all.
  if (const auto raw = port::decode_device_state(input); !raw && raw.error().what.empty()) std::abort();
  return 0;
}

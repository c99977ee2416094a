// Records of arbitrary contents under a head that is right: refused, or exactly what is written again.
#include "base/parcel.h"
#include "port/record.h"

#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace causeway;
  if (size == 0) return 0;
  const auto format = static_cast<port::RecordFormat>(1U + data[0] % 4U);
  const auto body = std::as_bytes(std::span(data + 1, size - 1));
  ParcelWriter head;
  head.number(std::uint32_t{0x54505743});
  head.number(static_cast<std::uint32_t>(format));
  head.number(static_cast<std::uint32_t>(body.size()));
  std::vector<std::uint8_t> summed;
  for (const std::byte byte : head.contents()) summed.push_back(std::to_integer<std::uint8_t>(byte));
  summed.insert(summed.end(), data + 1, data + size);
  head.number(static_cast<std::uint32_t>(crc32_z(crc32_z(0, nullptr, 0), summed.data(), summed.size())));
  std::vector<std::byte> whole(head.contents().begin(), head.contents().end());
  whole.insert(whole.end(), body.begin(), body.end());
  const auto record = port::decode(whole);
  if (record && port::encode(*record, format) != whole) std::abort();
  return 0;
}

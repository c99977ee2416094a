#include "port/sealed.h"

#include "base/parcel.h"

#include <fmt/format.h>

#include <zlib.h>

#include <algorithm>

namespace causeway::port {
namespace {

constexpr std::size_t kHead = 16;

/// Of the head without its last field, and of what follows.
std::uint32_t checksum(std::span<const std::byte> head, std::span<const std::byte> body) {
  const auto add = [](uLong sum, std::span<const std::byte> bytes) {
    std::vector<Bytef> raw(bytes.size());
    std::ranges::transform(bytes, raw.begin(), [](std::byte byte) { return std::to_integer<Bytef>(byte); });
    return crc32_z(sum, raw.data(), raw.size());
  };
  return static_cast<std::uint32_t>(add(add(crc32_z(0, nullptr, 0), head), body));
}

}  // namespace

std::vector<std::byte> seal(const Seal& with, std::uint32_t format, std::span<const std::byte> body) {
  ParcelWriter head;
  head.number(with.magic);
  head.number(format);
  head.number(static_cast<std::uint32_t>(body.size()));
  head.number(checksum(head.contents(), body));
  std::vector<std::byte> bytes(head.contents().begin(), head.contents().end());
  bytes.insert(bytes.end(), body.begin(), body.end());
  return bytes;
}

Result<Unsealed> unseal(const Seal& with, std::span<const std::byte> bytes) {
  if (bytes.size() < kHead) {
    return fail(Errc::peer_violation,
                fmt::format("it is truncated: {} bytes, the head alone has {}", bytes.size(), kHead));
  }
  ParcelReader head(Parcel{.bytes = {bytes.begin(), bytes.begin() + kHead}, .fds = {}});
  const auto magic = head.number<std::uint32_t>();
  const auto format = head.number<std::uint32_t>();
  const auto length = head.number<std::uint32_t>();
  const auto sum = head.number<std::uint32_t>();
  const auto body = bytes.subspan(kHead);
  if (magic != with.magic) return fail(Errc::peer_violation, fmt::format("it is no {}", with.name));
  if (body.size() != length) {
    return fail(
        Errc::peer_violation,
        fmt::format("it is truncated or has grown: {} bytes follow its head, which says {}", body.size(), length));
  }
  if (checksum(bytes.first(kHead - sizeof sum), body) != sum) {
    return fail(Errc::peer_violation, "its checksum is wrong: it was changed or damaged");
  }
  if (format < with.first || format > with.last) {
    return fail(Errc::not_supported,
                fmt::format("it is of format {}; this release knows {} to {}", format, with.first, with.last));
  }
  return Unsealed{.format = format, .body = body};
}

}  // namespace causeway::port

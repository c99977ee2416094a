// Bytes that outlive the process that wrote them: a head (magic, format, length of what follows, checksum), then a
// body.
#pragma once

#include "base/result.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace causeway::port {

/// What is sealed, and in which formats this release knows it. Value type.
struct Seal {
  std::uint32_t magic;
  std::uint32_t first;    ///< oldest format known
  std::uint32_t last;     ///< newest format known
  std::string_view name;  ///< for people: "record of a port"
};

/// The body of sealed bytes, part of them.
struct Unsealed {
  std::uint32_t format;
  std::span<const std::byte> body;
};

std::vector<std::byte> seal(const Seal& with, std::uint32_t format, std::span<const std::byte> body);
/// Errc::peer_violation: no such thing, truncated, or changed; Errc::not_supported: a format that this release does not
/// know. The text says which.
Result<Unsealed> unseal(const Seal& with, std::span<const std::byte> bytes);

}  // namespace causeway::port

// The hash over a received packet that the driver configures: it chooses the receive queue (RSS), and is reported in
// the virtio header (HASH_REPORT). Spec: virtio 1.3 sections 5.1.6.4.3, 5.1.6.5.6 and 5.1.6.5.7.
#pragma once

#include "virtio/net.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace causeway::net {

/// What the virtio header says of a packet's hash.
struct HashResult {
  std::uint32_t value = 0;
  virtio::HashReport report = virtio::HashReport::none;  ///< none: no configured type fits the packet
  bool operator==(const HashResult&) const = default;
};

/// The same as it follows the virtio header of a driver with HASH_REPORT.
constexpr virtio::NetHeaderHash to_header(const HashResult& hash) {
  return {.value = hash.value, .report = static_cast<std::uint16_t>(hash.report), .padding = 0};
}

/// The Toeplitz hash with one key. Value type of some 5 KiB.
///
/// The hash is linear: every half byte of input, by its place and value, gives 32 bits, and the hash is all of them
/// exclusive-ored. They are looked up in a table made from the key, so that TCP over IPv4 costs 24 loads. Whole bytes
/// would halve the loads, but their table (36 KiB) would push packets out of the first-level cache.
class Toeplitz {
 public:
  static constexpr std::size_t kMaxKey = 40;    ///< bytes; enough for two IPv6 addresses and two ports
  static constexpr std::size_t kMaxInput = 36;  ///< bytes

  Toeplitz() = default;
  /// A key shorter than kMaxKey goes on with zeros; what is longer is not used.
  explicit Toeplitz(std::span<const std::byte> key);

  /// Hash of `input` (at most kMaxInput bytes), which starts at byte `at` of the whole input: the hashes of its parts
  /// are exclusive-ored to that of the whole. at + input.size() is at most kMaxInput.
  std::uint32_t hash(std::span<const std::byte> input, std::size_t at = 0) const;

 private:
  std::array<std::array<std::uint32_t, 16>, 2 * kMaxInput> nibbles_{};
};

/// Hash types and key, as the driver configured them. Value type; immutable.
class RssHash {
 public:
  /// How much of a frame `compute` looks at: Ethernet, two VLAN tags, IPv6 with some extension headers, ports. Of a
  /// frame with more before its ports only the addresses count.
  static constexpr std::size_t kStartBytes = 160;
  static constexpr std::uint32_t kSupportedTypes = virtio::kHashAll;

  /// Hashes nothing.
  RssHash() = default;
  /// `types`: bits of virtio::kHash*, a subset of kSupportedTypes.
  RssHash(std::uint32_t types, std::span<const std::byte> key) : types_(types), toeplitz_(key) {}

  std::uint32_t types() const { return types_; }
  /// Without types there is nothing to compute, and nobody need gather a frame's start.
  bool is_used() const { return types_ != 0; }

  /// `start`: the first bytes of a frame, Ethernet header first, as many as there are up to kStartBytes. Fragments are
  /// hashed by their addresses, as not all of them have ports. Any bytes are allowed.
  HashResult compute(std::span<const std::byte> start) const;

 private:
  struct Packet;
  HashResult compute_ipv4(const Packet& packet) const;
  HashResult compute_ipv6(const Packet& packet) const;
  std::uint32_t over(const Packet& packet, bool with_ports) const;
  bool has(std::uint32_t type) const { return (types_ & type) != 0; }

  std::uint32_t types_ = 0;
  Toeplitz toeplitz_;
};

}  // namespace causeway::net

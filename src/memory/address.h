// Addresses of the four kinds that meet in a back-end. They do not convert into each other by accident.
#pragma once

#include <fmt/format.h>

#include <compare>
#include <cstdint>
#include <optional>

namespace causeway::memory {

/// A number of one kind of address space.
template <class Tag>
class Address {
 public:
  constexpr Address() = default;
  constexpr explicit Address(std::uint64_t value) : value_(value) {}
  constexpr std::uint64_t value() const { return value_; }
  constexpr auto operator<=>(const Address&) const = default;
  /// This address and `bytes` more; nothing when that wraps.
  constexpr std::optional<Address> plus(std::uint64_t bytes) const {
    if (value_ + bytes < value_) return std::nullopt;
    return Address(value_ + bytes);
  }

 private:
  std::uint64_t value_ = 0;
};

using Gpa = Address<struct GpaTag>;    ///< guest-physical
using Iova = Address<struct IovaTag>;  ///< what the driver writes into descriptors, as the device sees it
using FrontendVa =
    Address<struct FrontendVaTag>;  ///< the front-end's own mapping of guest memory ("userspace address")

/// What may be done with memory, or is to be done. Numbers as in linux/vhost_types.h (VHOST_ACCESS_*).
enum class Access : std::uint8_t { none = 0, read = 1, write = 2, read_write = 3 };
constexpr bool allows(Access granted, Access wanted) {
  return (static_cast<std::uint8_t>(wanted) & ~static_cast<std::uint8_t>(granted)) == 0;
}

/// A run of the driver's addresses. `size` is above 0, and the run does not wrap.
struct IovaRange {
  Iova first;
  std::uint64_t size;  ///< bytes
  constexpr std::uint64_t last() const { return first.value() + (size - 1); }
  constexpr bool overlaps(const IovaRange& other) const {
    return first.value() <= other.last() && other.first.value() <= last();
  }
};

/// Without an IOMMU before the device, an IOVA is the guest-physical address.
constexpr Iova untranslated(Gpa gpa) {
  return Iova(gpa.value());
}

}  // namespace causeway::memory

template <class Tag>
struct fmt::formatter<causeway::memory::Address<Tag>> : fmt::formatter<std::string_view> {
  template <class Context>
  auto format(const causeway::memory::Address<Tag>& address, Context& context) const {
    return fmt::format_to(context.out(), "{:#x}", address.value());
  }
};

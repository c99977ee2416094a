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

// Typed access to a structure of registers in a BAR.
#pragma once

#include "memory/guest_span.h"
#include "vfio/bus.h"
#include "virtio_pci/capabilities.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace causeway::virtio_pci {

/// `Layout` is the structure; each field is accessed as a whole, 64-bit fields in two halves (4.1.3.1). Thread:
/// control.
template <class Layout>
class Registers {
 public:
  /// `bus` must outlive it.
  Registers(vfio::Bus& bus, Place place) : bus_(&bus), place_(place) {}

  template <class Field>
  Result<Field> get(Field Layout::* member) const {
    Field value{};
    CW_CHECK(bus_->read(place_.bar, place_.offset + offset_of(member), std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  template <class Field>
  Result<void> set(Field Layout::* member, Field value) const {
    const std::uint64_t at = place_.offset + offset_of(member);
    const auto bytes = std::as_bytes(std::span(&value, 1));
    if constexpr (sizeof(Field) == 8) {
      CW_CHECK(bus_->write(place_.bar, at, bytes.first(4)));
      return bus_->write(place_.bar, at + 4, bytes.last(4));
    }
    return bus_->write(place_.bar, at, bytes);
  }
  /// Whether the function has that field: older ones end before the newest.
  template <class Field>
  bool has(Field Layout::* member) const {
    return offset_of(member) + sizeof(Field) <= place_.bytes;
  }

 private:
  template <class Field>
  static std::uint64_t offset_of(Field Layout::* member) {
    const Layout probe{};
    return static_cast<std::uint64_t>(std::as_bytes(std::span(&(probe.*member), 1)).data() -
                                      std::as_bytes(std::span(&probe, 1)).data());
  }
  vfio::Bus* bus_;
  Place place_;
};

}  // namespace causeway::virtio_pci

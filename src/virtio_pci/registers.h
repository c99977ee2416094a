// Typed access to a structure of registers in a BAR.
#pragma once

#include "memory/guest_span.h"
#include "vfio/bus.h"
#include "virtio_pci/capabilities.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace causeway::virtio_pci {

/// Accesses that are done together, in their order; see vfio::Bus::access. Thread: control.
class Batch {
 public:
  /// `bus` must outlive it.
  explicit Batch(vfio::Bus& bus) : bus_(bus) {}

  /// Returns the access's place, for `value`.
  std::size_t add(Place place, std::uint64_t offset, bool is_write, std::span<const std::byte> value) {
    vfio::Access access{.region = place.bar,
                        .offset = place.offset + offset,
                        .is_write = is_write,
                        .size = static_cast<std::uint8_t>(value.size()),
                        .value = {}};
    if (is_write) std::ranges::copy(value, access.value.begin());
    accesses_.push_back(access);
    return accesses_.size() - 1;
  }
  /// Once. The error is that of the first that has failed.
  Result<void> run() { return bus_.access(accesses_); }
  /// What was read there.
  template <class Field>
  Field value(std::size_t place) const {
    Field field{};
    std::memcpy(&field, accesses_[place].value.data(), sizeof field);
    return field;
  }

 private:
  vfio::Bus& bus_;
  std::vector<vfio::Access> accesses_;
};

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
  /// The same as parts of a batch; `get` returns the place of what will have been read, of a field of up to 32 bits.
  template <class Field>
  std::size_t get(Batch& batch, Field Layout::* member) const {
    static_assert(sizeof(Field) <= 4);
    const Field any{};
    return batch.add(place_, offset_of(member), false, std::as_bytes(std::span(&any, 1)));
  }
  template <class Field>
  void set(Batch& batch, Field Layout::* member, Field value) const {
    constexpr std::size_t kHalf = 4;
    const auto bytes = std::as_bytes(std::span(&value, 1));
    const std::uint64_t at = offset_of(member);
    if constexpr (sizeof(Field) == 2 * kHalf) {
      batch.add(place_, at, true, bytes.first(kHalf));
      batch.add(place_, at + kHalf, true, bytes.last(kHalf));
    } else {
      batch.add(place_, at, true, bytes);
    }
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

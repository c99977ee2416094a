// Feature bits of the standard, and sets of them. Spec: virtio 1.3 sections 2.2, 5.1.3, 6.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace causeway::virtio {

/// Bits that mean the same for every device type (section 6).
enum class Feature : unsigned {
  notify_on_empty = 24,
  any_layout = 27,
  indirect_desc = 28,
  event_idx = 29,
  version_1 = 32,
  access_platform = 33,
  ring_packed = 34,
  in_order = 35,
  order_platform = 36,
  sr_iov = 37,
  notification_data = 38,
  ring_reset = 40,
};

/// Up to 64 feature bits. Value type. `Bit` is any enum of bit numbers.
class FeatureSet {
 public:
  constexpr FeatureSet() = default;
  constexpr explicit FeatureSet(std::uint64_t bits) : bits_(bits) {}
  template <class Bit>
  constexpr FeatureSet(std::initializer_list<Bit> features) {
    for (const Bit bit : features) *this = with(bit);
  }

  template <class Bit>
  constexpr bool has(Bit bit) const {
    return ((bits_ >> static_cast<unsigned>(bit)) & 1) != 0;
  }
  template <class Bit>
  constexpr FeatureSet with(Bit bit) const {
    return FeatureSet(bits_ | (std::uint64_t{1} << static_cast<unsigned>(bit)));
  }
  template <class Bit>
  constexpr FeatureSet without(Bit bit) const {
    return FeatureSet(bits_ & ~(std::uint64_t{1} << static_cast<unsigned>(bit)));
  }
  constexpr FeatureSet minus(FeatureSet other) const { return FeatureSet(bits_ & ~other.bits_); }
  constexpr FeatureSet operator|(FeatureSet other) const { return FeatureSet(bits_ | other.bits_); }
  constexpr FeatureSet operator&(FeatureSet other) const { return FeatureSet(bits_ & other.bits_); }
  constexpr bool operator==(const FeatureSet&) const = default;
  constexpr bool is_subset_of(FeatureSet other) const { return (bits_ & ~other.bits_) == 0; }
  constexpr std::uint64_t bits() const { return bits_; }

 private:
  std::uint64_t bits_ = 0;
};

/// Device types by their number in the standard (section 5).
enum class DeviceType : std::uint32_t { net = 1, block = 2 };

/// The bit of `type` called `name` ("mrg_rxbuf", "event_idx"); nothing when there is none.
std::optional<unsigned> feature_by_name(DeviceType type, std::string_view name);
/// Names of the bits in the set, separated by blanks; bits without a name as "bit17".
std::string text(DeviceType type, FeatureSet features);

}  // namespace causeway::virtio

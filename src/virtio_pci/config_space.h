// The configuration space of a function of ours, as its driver sees it. Spec: PCI Local Bus 3.0 chapter 6, virtio 1.3
// section 4.1.4.
#pragma once

#include "memory/guest_span.h"
#include "virtio_pci/layout.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace causeway::virtio_pci {

/// Bytes, of which some can be written. Offsets are those of the standard. Thread: control.
class ConfigSpace {
 public:
  ConfigSpace() : bytes_(kConfigSpaceBytes), writable_(kConfigSpaceBytes) {}

  /// Sets what is read at `offset`.
  template <memory::WireType T>
  void set(std::size_t offset, const T& value) {
    std::memcpy(bytes_.data() + offset, &value, sizeof value);
  }
  /// Bits of the field at `offset` that a driver can change.
  template <memory::WireType T>
  void allow(std::size_t offset, const T& bits) {
    std::memcpy(writable_.data() + offset, &bits, sizeof bits);
  }
  template <memory::WireType T>
  T get(std::size_t offset) const {
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  /// A 64-bit memory BAR that takes two places; a driver finds its size, a power of two, by writing ones.
  void set_bar(unsigned bar, std::uint64_t size);
  /// Appends a capability, which begins with its id and the place of the next; returns where it is.
  template <memory::WireType T>
  std::size_t add_capability(T capability) {
    std::memcpy(bytes_.data() + end_, &capability, sizeof capability);
    return link(sizeof capability);
  }

  /// The range must lie inside.
  void read(std::size_t offset, std::span<std::byte> to) const;
  void write(std::size_t offset, std::span<const std::byte> from);

 private:
  std::size_t link(std::size_t size);

  std::vector<std::byte> bytes_;
  std::vector<std::byte> writable_;
  std::size_t last_link_ = kCapabilities;  // the byte that says where the next capability is
  std::size_t end_ = 0x40;
};

}  // namespace causeway::virtio_pci

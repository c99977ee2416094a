#include "virtio_pci/config_space.h"

#include <algorithm>

namespace causeway::virtio_pci {

void ConfigSpace::set_bar(unsigned bar, std::uint64_t size) {
  const std::size_t at = kBar0 + 4 * std::size_t{bar};
  set(at, std::uint64_t{kBarMemory64});
  allow(at, ~(size - 1));
}

std::size_t ConfigSpace::link(std::size_t size) {
  const std::size_t place = end_;
  bytes_[last_link_] = static_cast<std::byte>(place);
  last_link_ = place + 1;
  bytes_[last_link_] = std::byte{0};
  end_ += (size + 3) / 4 * 4;
  set(kStatus, kStatusCapabilities);
  return place;
}

void ConfigSpace::read(std::size_t offset, std::span<std::byte> to) const {
  std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
}

void ConfigSpace::write(std::size_t offset, std::span<const std::byte> from) {
  for (std::size_t i = 0; i < from.size(); ++i) {
    const std::byte mask = writable_[offset + i];
    bytes_[offset + i] = (bytes_[offset + i] & ~mask) | (from[i] & mask);
  }
}

}  // namespace causeway::virtio_pci

// Writes into a ring what nobody does who keeps to the standard: for fuzzers of those who must not believe it.
#pragma once

#include "memory/memory_map.h"
#include "virtio/driver_chain.h"
#include "virtio/ring.h"

#include <array>
#include <memory>
#include <optional>

#include "support/fuzz_input.h"

namespace causeway::testing {

class RingLiar {
 public:
  /// `map` must hold the ring, and `tables` when there are some.
  RingLiar(FuzzInput& input, const memory::MemoryMap& map, const virtio::RingConfig& ring,
           std::optional<virtio::IndirectArea> tables = std::nullopt)
      : input_(input), ring_(ring), areas_(*virtio::RingAreas::locate(ring, map)), tables_(areas_.descriptors) {
    if (!tables) return;
    tables_ = *map.translate(tables->at, virtio::indirect_bytes(ring.size.entries(), tables->table_entries));
  }

  /// Two bytes anywhere in one of the four areas.
  void poke(unsigned where) {
    const std::array areas{areas_.descriptors, areas_.available, areas_.used, tables_};
    const memory::GuestSpan& area = areas[where % areas.size()];
    const std::size_t at = 2 * (input_.word() % (area.size() / 2));
    area.put(at, input_.word());
  }
  /// A whole descriptor, in the ring or in a table, at or behind `base`.
  void write_descriptor(bool in_table, std::uint64_t base, unsigned length_shift) {
    const memory::GuestSpan& table = in_table ? tables_ : areas_.descriptors;
    const std::size_t index = input_.byte() % (table.size() / sizeof(virtio::Descriptor));
    const std::uint64_t address = base + input_.word();
    const std::uint32_t length = std::uint32_t{input_.word()} << length_shift;
    const std::uint16_t third = input_.word();
    // The two numbers at its end are the flags and the next one; in a packed ring the id and the flags.
    table.put(sizeof(virtio::Descriptor) * index,
              virtio::Descriptor{.address = address, .length = length, .flags = third, .next = input_.word()});
  }
  /// Some chain is available, whether the device has it or not.
  void offer() {
    if (ring_.layout() == virtio::Layout::packed) return turn();
    const auto index = areas_.available.fetch<std::uint16_t>(virtio::kRingIndex);
    const std::size_t slot = index % ring_.size.entries();
    areas_.available.put(virtio::kRingEntries + 2 * slot, std::uint16_t{input_.byte()});
    areas_.available.put(virtio::kRingIndex, static_cast<std::uint16_t>(index + 1));
  }
  /// Some chains are used, whatever they may be.
  void use() {
    if (ring_.layout() == virtio::Layout::packed) return turn();
    const auto index = areas_.used.fetch<std::uint16_t>(virtio::kRingIndex);
    areas_.used.put(virtio::kRingIndex, static_cast<std::uint16_t>(index + input_.byte()));
  }

 private:
  /// Makes a descriptor of a packed ring what it is not: available, used, or neither.
  void turn() {
    const std::size_t at = std::size_t{16} * (input_.byte() % ring_.size.entries()) + 14;
    const unsigned bits = (input_.byte() & 1) != 0 ? virtio::kDescAvail : virtio::kDescAvail | virtio::kDescUsed;
    const auto flags = areas_.descriptors.fetch<std::uint16_t>(at);
    areas_.descriptors.put(at, static_cast<std::uint16_t>(flags ^ bits));
  }

  FuzzInput& input_;
  virtio::RingConfig ring_;
  virtio::RingAreas areas_;
  memory::GuestSpan tables_;
};

}  // namespace causeway::testing

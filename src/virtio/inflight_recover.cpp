// What a crash has left in an in-flight record.
#include "virtio/inflight.h"
#include "virtio/inflight_layout.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::virtio {
namespace inflight {
namespace {

/// Errc::not_found: fresh.
Result<void> check_head(const InflightArea& area, std::uint16_t entries) {
  const auto version = get<std::uint16_t>(area, kVersion);
  if (version == 0) return fail(Errc::not_found, "nothing recorded");
  if (version != kCurrentVersion) {
    return fail(Errc::peer_violation,
                fmt::format("an in-flight record of version {}, expected {}", version, kCurrentVersion));
  }
  const auto recorded = get<std::uint16_t>(area, kEntries);
  if (recorded == entries) return {};
  return fail(Errc::peer_violation,
              fmt::format("an in-flight record of {} entries for a ring of {}", recorded, entries));
}

Result<Recorded> read_chain(const InflightArea& area, std::uint16_t entries, std::uint16_t head) {
  using namespace packed;
  Recorded recorded{.head = head,
                    .last = get<std::uint16_t>(area, at(head) + kLast),
                    .counter = get<std::uint64_t>(area, at(head) + kCounter),
                    .chain = {}};
  const auto count = get<std::uint16_t>(area, at(head) + kNum);
  if (count == 0 || count > entries) {
    return fail(Errc::peer_violation,
                fmt::format("a chain of {} descriptors in flight in a ring of {}", count, entries));
  }
  std::uint16_t entry = head;
  for (std::uint16_t i = 0; i < count; ++i) {
    if (entry >= entries) {
      return fail(Errc::peer_violation, fmt::format("entry {} in an in-flight record of {}", entry, entries));
    }
    recorded.chain.descriptors.push_back({.address = get<std::uint64_t>(area, at(entry) + kAddress),
                                          .length = get<std::uint32_t>(area, at(entry) + kLength),
                                          .id = get<std::uint16_t>(area, at(entry) + kId),
                                          .flags = get<std::uint16_t>(area, at(entry) + kFlags)});
    if (i + 1 == count && entry != recorded.last) {
      return fail(Errc::peer_violation,
                  fmt::format("a chain in flight ends at entry {}, not {}", entry, recorded.last));
    }
    entry = get<std::uint16_t>(area, at(entry) + kNext);
  }
  recorded.chain.id = recorded.chain.descriptors.back().id;
  return recorded;
}

}  // namespace

Result<PackedContents> read_packed(const InflightArea& area, std::uint16_t entries) {
  CW_CHECK(check_head(area, entries));
  const auto head = get<std::uint64_t>(area, kHeadWord);
  const auto position = get<std::uint64_t>(area, kPositionWord);
  const auto place = [&](unsigned index_shift, unsigned wrap_shift) {
    const auto index = static_cast<std::uint16_t>(position >> index_shift);
    const bool wrap = (position >> wrap_shift & 0xff) != 0;
    return static_cast<std::uint16_t>((index & ~kWrapCounter) | (wrap ? kWrapCounter : 0));
  };
  PackedContents contents{.free_head = static_cast<std::uint16_t>(head >> 32),
                          .old_free_head = static_cast<std::uint16_t>(head >> 48),
                          .used = PackedPosition(place(0, 32), entries),
                          .old_used = PackedPosition(place(16, 40), entries),
                          .chains = {}};
  if (contents.used.index() >= entries || contents.old_used.index() >= entries) {
    return fail(Errc::peer_violation, fmt::format("used positions {} and {} in a ring of {}", contents.used.index(),
                                                  contents.old_used.index(), entries));
  }
  for (std::uint16_t i = 0; i < entries; ++i) {
    if (get<std::uint8_t>(area, packed::at(i) + packed::kInflight) == 0) continue;
    CW_TRY(auto recorded, read_chain(area, entries, i));
    contents.chains.push_back(std::move(recorded));
  }
  std::ranges::sort(contents.chains, {}, &Recorded::counter);
  return contents;
}

namespace {

/// Takes out of flight what the last batch has used, when the ring shows that it was published.
Result<void> settle_split(const InflightArea& area, std::uint16_t entries, std::uint16_t ring_used) {
  const auto recorded = get<std::uint16_t>(area, split::kUsedIdx);
  const auto batch = static_cast<std::uint16_t>(ring_used - recorded);
  if (batch > entries) {
    return fail(Errc::peer_violation,
                fmt::format("an in-flight record of used index {}, where the ring has {}", recorded, ring_used));
  }
  auto head = get<std::uint16_t>(area, split::kLastBatchHead);
  for (std::uint16_t i = 0; i < batch; ++i) {
    if (head >= entries) {
      return fail(Errc::peer_violation, fmt::format("entry {} in an in-flight record of {}", head, entries));
    }
    put<std::uint8_t>(area, split::at(head) + split::kInflight, 0);
    head = get<std::uint16_t>(area, split::at(head) + split::kNext);
  }
  put(area, split::kUsedIdx, ring_used);
  return {};
}

Result<QueueState> recover_split(const InflightArea& area, const RingConfig& ring, const RingAreas& areas) {
  const std::uint16_t entries = ring.size.entries();
  CW_CHECK(check_head(area, entries));
  const auto used = areas.used.load<std::uint16_t>(kRingIndex, std::memory_order_acquire);
  CW_CHECK(settle_split(area, entries, used));
  std::vector<std::pair<std::uint64_t, std::uint16_t>> found;  // by counter
  for (std::uint16_t i = 0; i < entries; ++i) {
    if (get<std::uint8_t>(area, split::at(i) + split::kInflight) == 0) continue;
    found.emplace_back(get<std::uint64_t>(area, split::at(i) + split::kCounter), i);
  }
  std::ranges::sort(found);
  QueueState state{.avail = static_cast<std::uint16_t>(used + found.size()), .used = used, .in_flight = {}};
  for (const auto& [counter, head] : found) state.in_flight.push_back({.id = head, .descriptors = {}});
  return state;
}

/// Takes out of flight what lies in the free list: chains that were being marked or given back.
Result<void> free_rest(const InflightArea& area, std::uint16_t entries, std::uint16_t free_head) {
  std::uint16_t entry = free_head;
  for (std::uint32_t steps = 0; entry < entries; ++steps) {
    if (steps == entries) return fail(Errc::peer_violation, "the free list of an in-flight record runs in a circle");
    put<std::uint8_t>(area, packed::at(entry) + packed::kInflight, 0);
    entry = get<std::uint16_t>(area, packed::at(entry) + packed::kNext);
  }
  return {};
}

/// The batch that goes from one used position to the other, when it was logged.
std::vector<PackedUsed> logged(const InflightArea& area, std::uint16_t entries, PackedPosition from,
                               PackedPosition to) {
  std::vector<PackedUsed> batch;
  if (area.log.size() == 0) return batch;
  const auto word = area.log.load<std::uint64_t>(0, std::memory_order_acquire);
  const auto count = static_cast<std::uint16_t>(word);
  if (count == 0 || count > entries || word != log_word(count, from, to)) return batch;
  for (std::uint16_t i = 0; i < count; ++i) {
    const auto entry = std::bit_cast<PackedUsed>(
        area.log.load<std::uint64_t>(packed::kLogTable + sizeof(PackedUsed) * i, std::memory_order_acquire));
    // Whoever shares the memory may have written this.
    if (PackedPosition(entry.position, entries).index() >= entries) return {};
    batch.push_back(entry);
  }
  return batch;
}

/// The half of a batch that was written when the crash came is made whole, or undone.
Result<void> settle_packed(const InflightArea& area, std::uint16_t entries, const RingAreas& areas) {
  CW_CHECK(check_head(area, entries));
  const auto position = get<std::uint64_t>(area, kPositionWord);
  const auto head = get<std::uint64_t>(area, kHeadWord);
  const auto used_index = static_cast<std::uint16_t>(position);
  const auto old_index = static_cast<std::uint16_t>(position >> 16);
  const bool used_wrap = (position >> 32 & 0xff) != 0;
  const bool old_wrap = (position >> 40 & 0xff) != 0;
  if (used_index >= entries || old_index >= entries) {
    return fail(Errc::peer_violation,
                fmt::format("used positions {} and {} in a ring of {}", used_index, old_index, entries));
  }
  const PackedPosition used(static_cast<std::uint16_t>(used_index | (used_wrap ? kWrapCounter : 0)), entries);
  const PackedPosition old_used(static_cast<std::uint16_t>(old_index | (old_wrap ? kWrapCounter : 0)), entries);
  auto free_head = static_cast<std::uint16_t>(head >> 32);
  const auto old_free_head = static_cast<std::uint16_t>(head >> 48);
  // Heads alone may be those of a batch that was not begun.
  bool is_published = false;
  if (!(used == old_used)) {
    const auto tail = PackedTail::load(areas.descriptors, old_used.offset(), std::memory_order_acquire);
    is_published = (tail.flags() & kPackedBits) != old_used.available_bits();
    if (const auto batch = logged(area, entries, old_used, used); !is_published && !batch.empty()) {
      put_into_ring(batch, areas.descriptors, entries);
      is_published = true;
    }
  }
  if (!is_published) free_head = old_free_head;
  const PackedPosition settled = is_published ? used : old_used;
  CW_CHECK(free_rest(area, entries, free_head));
  put(area, kHeadWord, word(kCurrentVersion, entries, free_head, free_head));
  put(area, kPositionWord, position_word(settled, settled));
  return {};
}

Result<QueueState> recover_packed(const InflightArea& area, const RingConfig& ring, const RingAreas& areas) {
  const std::uint16_t entries = ring.size.entries();
  CW_CHECK(settle_packed(area, entries, areas));
  CW_TRY(auto contents, read_packed(area, entries));
  PackedPosition avail = contents.used;
  std::size_t held = 0;
  QueueState state{.avail = 0, .used = contents.used.encoded(), .in_flight = {}};
  for (Recorded& recorded : contents.chains) {
    held += recorded.chain.descriptors.size();
    if (held > entries) return fail(Errc::peer_violation, "more descriptors in flight than the ring has");
    state.in_flight.push_back(std::move(recorded.chain));
  }
  avail.advance(static_cast<std::uint16_t>(held));
  state.avail = avail.encoded();
  return state;
}

}  // namespace
}  // namespace inflight

Result<std::optional<QueueState>> recover(const InflightArea& area, const RingConfig& ring,
                                          const memory::MemoryMap& map) {
  CW_TRY(const auto areas, RingAreas::locate(ring, map));
  auto state = ring.layout() == Layout::packed ? inflight::recover_packed(area, ring, areas)
                                               : inflight::recover_split(area, ring, areas);
  if (state) return std::optional(std::move(*state));
  if (state.error().code == Errc::not_found) return std::optional<QueueState>();
  return fail(std::move(state).error());
}

bool has_been_used(const RingConfig& ring, const memory::MemoryMap& map) {
  const auto areas = RingAreas::locate(ring, map);
  if (!areas) return false;
  // The driver makes a ring of zeros, and sets the flag for the first time in its second lap.
  for (std::uint16_t i = 0; i < ring.size.entries(); ++i) {
    const std::size_t offset = std::size_t{i} * sizeof(PackedDescriptor);
    if ((PackedTail::load(areas->descriptors, offset, std::memory_order_acquire).flags() & kDescUsed) != 0) return true;
  }
  return false;
}

}  // namespace causeway::virtio

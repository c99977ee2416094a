// Which port of a switch an address was last seen on.
#pragma once

#include "net/ethernet.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

namespace causeway::net {

/// A bounded table: a new address replaces the oldest of its set, so that no guest can make it grow. Thread: one.
class MacTable {
 public:
  static constexpr std::size_t kSets = 2048;
  static constexpr std::size_t kWays = 4;
  /// An address that was not seen for so long is forgotten (IEEE 802.1D's default ageing time).
  static constexpr std::uint32_t kAgeingSeconds = 300;

  MacTable() : sets_(kSets) {}

  /// `port` may be any pointer; it is only compared. `now` in seconds of a steady clock.
  void learn(const MacAddress& address, void* port, std::uint32_t now) {
    const std::uint64_t key = address.number();
    Set& set = sets_[index_of(key)];
    Entry* oldest = set.data();
    for (Entry& entry : set) {
      if (entry.port != nullptr && entry.key == key) {
        entry.port = port;
        entry.seen = now;
        return;
      }
      if (entry.port == nullptr || (oldest->port != nullptr && entry.seen < oldest->seen)) oldest = &entry;
    }
    *oldest = {.key = key, .port = port, .seen = now};
  }

  /// The port, or nullptr when the address is not known.
  void* find(const MacAddress& address, std::uint32_t now) const {
    const std::uint64_t key = address.number();
    for (const Entry& entry : sets_[index_of(key)]) {
      if (entry.port != nullptr && entry.key == key) return now - entry.seen <= kAgeingSeconds ? entry.port : nullptr;
    }
    return nullptr;
  }

  void forget(const void* port) {
    for (Set& set : sets_) {
      for (Entry& entry : set) {
        if (entry.port == port) entry.port = nullptr;
      }
    }
  }

 private:
  struct Entry {
    std::uint64_t key = 0;
    void* port = nullptr;
    std::uint32_t seen = 0;
  };
  using Set = std::array<Entry, kWays>;
  /// Addresses of one vendor differ in their last bits only; the multiplication spreads them.
  static std::size_t index_of(std::uint64_t key) { return static_cast<std::size_t>(key * 0x9e3779b97f4a7c15ULL >> 53); }
  static_assert(kSets == std::size_t{1} << (64 - 53));

  std::vector<Set> sets_;
};

}  // namespace causeway::net

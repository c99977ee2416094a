// What a network function says it has counted (DEVICE_STATS), kept over its resets. Spec: virtio 1.4 section 5.1.6.5,
// "Device Statistics".
#pragma once

#include "base/result.h"
#include "vdpa/device.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace causeway::virtio_pci {

/// Commands that ask a function, and what becomes of its answers, of which nothing is trusted. Value type.
///
/// Invariants: (1) what `counters` says never goes back: a function that counts from zero again, since it was reset or
/// replaced, goes on from where it was; (2) an answer that is refused changes nothing.
class Statistics {
 public:
  /// QUERY: which types there are. The answer has `kQueryAnswer` bytes behind its ack.
  static std::vector<std::byte> query();
  static constexpr std::size_t kQueryAnswer = sizeof(std::uint64_t);
  /// Errc::peer_violation: the answer is too short.
  Result<void> take_types(std::span<const std::byte> answer);
  /// Whether QUERY has been answered by this function; another one is asked anew.
  bool has_types() const { return has_types_; }
  void forget_types() { has_types_ = false; }

  /// GET for the first `queues` data queues, of the types that there are; nothing: there are none of use.
  std::vector<std::byte> get(std::uint16_t queues) const;
  static std::size_t get_answer(std::uint16_t queues);
  /// Errc::peer_violation: its parts do not fit into it, or are of queues that were not asked about. Types that are not
  /// known are passed over.
  Result<void> take(std::span<const std::byte> answer, std::uint16_t queues);

  /// Whether anything has been heard of the queue.
  bool has(std::uint16_t queue) const { return queue < queues_.size() && queues_[queue].is_known; }
  std::vector<vdpa::Counter> counters(std::uint16_t queue) const;

 private:
  static constexpr std::size_t kCounters = 6;
  struct Counted {
    bool is_known = false;
    std::array<std::uint64_t, kCounters> last{};  ///< as the function said it
    std::array<std::uint64_t, kCounters> total{};
  };

  bool has_types_ = false;
  std::uint64_t types_ = 0;
  std::vector<Counted> queues_;
};

}  // namespace causeway::virtio_pci

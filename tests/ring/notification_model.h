// What a side that was told of suppression must do: worked out in positions that never wrap.
#pragma once

#include "virtio/feature.h"
#include "virtio/ring.h"

#include <cstdint>
#include <optional>

namespace causeway::testing {

/// One direction of notifications of one ring: kicks, or calls. Positions count what the ring's indices count, from the
/// ring's first use on: entries of a split ring, descriptors of a packed one.
class NotificationModel {
 public:
  NotificationModel(virtio::FeatureSet features, std::uint32_t entries)
      : packed_(features.has(virtio::Feature::ring_packed)),
        event_idx_(features.has(virtio::Feature::event_idx)),
        entries_(entries),
        wish_(event_idx_ && !packed_ ? Wish::unknown : Wish::all) {}

  /// The side to be notified has consumed so much, and asks for the next.
  void arm(std::uint64_t consumed) {
    wish_ = event_idx_ ? Wish::at_event : Wish::all;
    event_ = consumed;
  }
  /// Split rings with EVENT_IDX have no way to say so.
  void disarm() {
    if (packed_ || !event_idx_) wish_ = Wish::none;
  }

  /// Whether moving on to `position` must notify; nothing: it may or may not.
  std::optional<bool> move_to(std::uint64_t position) {
    const std::uint64_t old = produced_;
    produced_ = position;
    if (position == old) return false;
    if (wish_ == Wish::all) return true;
    if (wish_ == Wish::none) return false;
    if (wish_ == Wish::unknown) return std::nullopt;
    if (old <= event_ && event_ < position) return true;
    // An event that has long passed of a packed ring may be taken for one to come: the wrap counter is one bit.
    if (packed_ && position - event_ > entries_) return std::nullopt;
    return false;
  }

 private:
  enum class Wish : std::uint8_t { unknown, all, none, at_event };

  bool packed_;
  bool event_idx_;
  std::uint32_t entries_;
  Wish wish_;
  std::uint64_t event_ = 0;
  std::uint64_t produced_ = 0;
};

}  // namespace causeway::testing

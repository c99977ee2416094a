// A ring's features and size, chosen by a few bits of a fuzzer's input.
#pragma once

#include "virtio/ring.h"

#include <cstdint>

namespace causeway::testing {

inline virtio::FeatureSet ring_features(unsigned bits) {
  using virtio::Feature;
  virtio::FeatureSet features;
  for (const auto feature : {Feature::ring_packed, Feature::indirect_desc, Feature::event_idx, Feature::in_order}) {
    if ((bits & 1) != 0) features = features.with(feature);
    bits >>= 1;
  }
  return features;
}

inline std::uint16_t ring_entries(virtio::FeatureSet features, unsigned bits) {
  return static_cast<std::uint16_t>(features.has(virtio::Feature::ring_packed) ? 1 + bits % 32 : 1U << (bits % 6));
}

}  // namespace causeway::testing

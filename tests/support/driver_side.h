// What every driver side of the tests does.
#pragma once

#include "base/parcel.h"
#include "port/port.h"
#include "virtio/ring.h"

#include <cstdint>
#include <utility>

namespace causeway::testing {

/// Tells a port the features and shares the first region of `map` with it.
inline Result<void> negotiate(port::Port& port, virtio::FeatureSet features, const memory::MemoryMap& map) {
  const memory::Region& own = map.regions().front();
  CW_TRY(auto shared, own.file->duplicate());
  CW_TRY(auto given, memory::Region::map(own.iova, own.frontend_va, own.size, std::move(shared), 0));
  CW_CHECK(port.set_features(features));
  return port.set_memory({std::move(given)});
}

/// What arrives in another process of what was sent.
inline Parcel arrived(const ParcelWriter& sent) {
  Parcel parcel{.bytes = {sent.contents().begin(), sent.contents().end()}, .fds = {}};
  for (const OwnedFd* fd : sent.descriptors()) {
    auto duplicate = fd->duplicate();
    if (duplicate) parcel.fds.push_back(std::move(*duplicate));
  }
  return parcel;
}

}  // namespace causeway::testing

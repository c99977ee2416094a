// Whether a guest that has read one configuration space can go on with another.
#pragma once

#include "virtio/feature.h"

#include <cstddef>
#include <span>
#include <string>

namespace causeway::daemon {

/// The first field that a driver with these features relies on and that does not do there: it differs, or there is less
/// of it. A sentence that names the field, both values and what to do; empty when there is no such field. The spaces
/// may have any size and content.
std::string config_space_obstacle(virtio::DeviceType type, virtio::FeatureSet features, std::span<const std::byte> here,
                                  std::span<const std::byte> there);

}  // namespace causeway::daemon

// MAC addresses for ports whose configuration names none.
#pragma once

#include "net/ethernet.h"

#include <string_view>

namespace causeway::config {

/// A unicast, locally administered address that depends on nothing but `name`.
net::MacAddress mac_from_name(std::string_view name);

}  // namespace causeway::config

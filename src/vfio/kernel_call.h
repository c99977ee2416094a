// Calls of the kernel's VFIO.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace causeway::vfio {

/// Asks with a structure that begins with its size, `argsz`, which need not be set; returns the structure as it was
/// answered, with the capabilities behind it. `what` names the question for the text of an error.
Result<std::vector<std::byte>> ask(const OwnedFd& fd, unsigned long request, std::span<const std::byte> question,
                                   std::string_view what);

}  // namespace causeway::vfio

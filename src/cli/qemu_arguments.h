// The QEMU arguments that plug a virtual machine into a port.
#pragma once

#include "base/result.h"

#include <string>
#include <string_view>
#include <vector>

namespace causeway::control::v1 {
class Port;
}

namespace causeway::cli {

/// The arguments, in order, each as QEMU must get it. `memory` is the size of the guest's memory as QEMU writes it
/// ("1G"). Errc::not_supported when there is no way to plug QEMU into the port.
Result<std::vector<std::string>> qemu_arguments(const control::v1::Port& port, std::string_view memory);
/// What a user should know about them: one sentence a line.
std::string qemu_notes(const control::v1::Port& port, std::string_view memory);
/// The arguments on one line, quoted for a POSIX shell where they need it.
std::string shell_line(const std::vector<std::string>& arguments);

}  // namespace causeway::cli

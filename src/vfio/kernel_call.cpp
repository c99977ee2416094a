#include "vfio/kernel_call.h"

#include "vfio/structure.h"

#include <sys/ioctl.h>

#include <cstdint>
#include <cstring>
#include <string>

namespace causeway::vfio {

Result<std::vector<std::byte>> ask(const OwnedFd& fd, unsigned long request, std::span<const std::byte> question,
                                   std::string_view what) {
  constexpr std::uint32_t kMost = 1 << 20;
  std::vector<std::byte> answer(question.begin(), question.end());
  while (true) {
    const auto room = static_cast<std::uint32_t>(answer.size());
    std::memcpy(answer.data(), &room, sizeof room);
    if (::ioctl(fd.borrow(), request, answer.data()) < 0) return fail(system_error(std::string(what)));
    const std::uint32_t needed = *load<std::uint32_t>(answer);
    if (needed <= room) return answer;
    if (needed > kMost) return fail(Errc::system, std::string(what) + ": the answer is too long");
    // The kernel has put what it can tell into `argsz`: once more, with room for the capabilities.
    answer.assign(question.begin(), question.end());
    answer.resize(needed);
  }
}

}  // namespace causeway::vfio

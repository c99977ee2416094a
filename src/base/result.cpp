#include "base/result.h"

#include <cerrno>
#include <system_error>

namespace causeway {

std::string_view name_of(Errc code) {
  switch (code) {
    case Errc::peer_violation:
      return "peer violation";
    case Errc::not_supported:
      return "not supported";
    case Errc::invalid_value:
      return "invalid value";
    case Errc::not_found:
      return "not found";
    case Errc::busy:
      return "busy";
    case Errc::system:
      return "system";
    case Errc::gone:
      return "gone";
  }
  return "unknown";
}

Error Error::context(std::string_view where) && {
  what.insert(0, std::string(where) + ": ");
  return std::move(*this);
}

std::string Error::text() const {
  if (sys_errno == 0) return what;
  return what + ": " + std::generic_category().message(sys_errno);
}

Error system_error(std::string what) {
  return system_error(std::move(what), errno);
}

Error system_error(std::string what, int sys_errno) {
  return Error{.code = Errc::system, .sys_errno = sys_errno, .what = std::move(what)};
}

}  // namespace causeway

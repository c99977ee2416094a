// Errors are values: what failed, on what, and why, in one sentence that a user can act on.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace causeway {

/// What the caller can do about an error; the text says what happened.
enum class Errc {
  peer_violation,  ///< the guest, the front-end or a file broke a rule: refuse, or drop the connection
  not_supported,   ///< legal, but not offered or not negotiated: refuse
  invalid_value,   ///< a value out of its range, from configuration or the control API: tell the user
  not_found,       ///< a name or index that does not exist
  busy,            ///< in use; try again after the other use has ended
  system,          ///< the operating system refused; `sys_errno` says why
  gone,            ///< the peer, device or memory behind it has disappeared: rebind or close
};

std::string_view name_of(Errc code);

/// A failure. Value type.
struct Error {
  Errc code;
  int sys_errno = 0;  ///< errno, or 0 when the operating system was not involved
  std::string what;

  /// The same error with "where: " put in front; used when an error crosses a module.
  Error context(std::string_view where) &&;
  /// `what`, and the errno's text when there is one. The one place that formats errors.
  std::string text() const;
};

/// An error of the operating system: `what` names the call and its object; errno is read now unless given.
Error system_error(std::string what);
Error system_error(std::string what, int sys_errno);

template <class T>
class [[nodiscard]] Result : public std::expected<T, Error> {
 public:
  using std::expected<T, Error>::expected;
};

using Failure = std::unexpected<Error>;

/// Makes the value that a function returning Result<T> fails with.
inline Failure fail(Errc code, std::string what) {
  return Failure(Error{.code = code, .what = std::move(what)});
}
inline Failure fail(Error error) {
  return Failure(std::move(error));
}

}  // namespace causeway

#define CW_CAT_(a, b) a##b
#define CW_CAT(a, b) CW_CAT_(a, b)
/// Declares `decl` with the value of `expr`, or returns its error from the enclosing function.
#define CW_TRY(decl, expr)                                                                                        \
  auto CW_CAT(cw_result_, __LINE__) = (expr);                                                                     \
  if (!CW_CAT(cw_result_, __LINE__)) return ::causeway::Failure(std::move(CW_CAT(cw_result_, __LINE__)).error()); \
  decl = std::move(*CW_CAT(cw_result_, __LINE__))
/// Returns the error of `expr`, a Result<void>, from the enclosing function, if it has one.
#define CW_CHECK(expr) \
  if (auto cw_check_ = (expr); !cw_check_) return ::causeway::Failure(std::move(cw_check_).error())

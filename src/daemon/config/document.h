// A TOML text as plain values that remember their lines. Keeps the parser's own types out of everything else.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace causeway::config {

struct Value;
struct Member;
using Array = std::vector<Value>;

/// A table; its members in order of their lines.
struct Table {
  std::uint32_t line = 0;  ///< of its header; 0 for the whole file
  std::vector<Member> members;

  /// The member called `key`, or nullptr.
  const Member* find(std::string_view key) const;
};

/// A date or a time: TOML has them, we have no use for them.
struct DateOrTime {};

struct Value {
  std::uint32_t line = 0;
  std::variant<std::string, std::int64_t, double, bool, DateOrTime, Array, Table> data;
};

struct Member {
  std::string key;
  std::uint32_t line = 0;
  Value value;
};

/// What an error message says a value is: `33`, `"text"`, `an array`.
std::string describe(const Value& value);
/// `text` in double quotes, shortened, with what does not print escaped.
std::string quote(std::string_view text);

/// Reads a TOML text. Errors begin with "file:line: ". Refuses what no configuration needs: more than a mebibyte, lines
/// of more than 4096 characters, tables nested deeper than `kMaxDepth`.
Result<Table> parse_toml(std::string_view text, std::string_view file);
inline constexpr unsigned kMaxDepth = 4;

}  // namespace causeway::config

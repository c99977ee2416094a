// Reads the keys of one table of the configuration file, and words the errors.
#pragma once

#include "daemon/config/document.h"

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::config {

/// A word that a key may have, and what it stands for.
template <class T>
struct Choice {
  std::string_view word;
  T meaning;
};

/// One table, for example one `[[port]]`. Errors read "file:line: subject: key 'k' is X; expected Y". Borrows the table
/// and the file's name. Value type.
class Section {
 public:
  /// `subject` names the table in errors, for example "port 'net0'".
  Section(std::string_view file, const Table& table, std::string subject)
      : file_(file), table_(&table), subject_(std::move(subject)) {}

  void rename(std::string subject) { subject_ = std::move(subject); }
  bool has(std::string_view key) const { return table_->find(key) != nullptr; }

  /// Fails on a key that is not in `known`, and proposes one that is spelled almost so.
  Result<void> allow_only(std::initializer_list<std::string_view> known) const;

  /// The value of `key`, or nothing when it is not there. `expected` completes "expected ...".
  Result<std::optional<std::string>> text(std::string_view key, std::string_view expected) const;
  /// A text that must be there.
  Result<std::string> required_text(std::string_view key, std::string_view expected) const;
  Result<std::optional<std::int64_t>> whole(std::string_view key, std::int64_t least, std::int64_t most) const;
  /// An amount: a whole number, or a text such as "64M" with K, M, G or T for powers of 1024. Nothing when it is not
  /// there.
  Result<std::optional<std::uint64_t>> amount(std::string_view key, std::uint64_t least) const;
  Result<bool> flag(std::string_view key, bool fallback) const;
  /// An array of texts; nothing when it is not there.
  Result<std::optional<std::vector<std::string>>> texts(std::string_view key, std::string_view expected) const;
  /// A name as ports, workers, switches and Devices have: letters, digits, '-', '_', '.', at most 64 of them.
  Result<std::optional<std::string>> name(std::string_view key) const;

  /// One of a few words.
  template <class T>
  Result<T> choice(std::string_view key, T fallback, std::span<const Choice<T>> choices) const {
    std::vector<std::string_view> words;
    for (const auto& entry : choices) words.push_back(entry.word);
    const std::string expected = one_of(words);
    CW_TRY(const auto found, text(key, expected));
    if (!found) return fallback;
    for (const auto& entry : choices) {
      if (entry.word == *found) return entry.meaning;
    }
    return bad(key, expected);
  }

  /// "key 'k' is X; expected Y", at the key's line. The key must be there.
  Failure bad(std::string_view key, std::string_view expected) const;
  /// "key 'k' is missing; expected Y", at the table's line.
  Failure missing(std::string_view key, std::string_view expected) const;

  /// `"a", "b" or "c"`.
  static std::string one_of(std::span<const std::string_view> words);

 private:
  Failure error(std::uint32_t line, std::string_view what) const;

  std::string_view file_;
  const Table* table_;
  std::string subject_;
};

/// "64M" as bytes; nothing for what is no amount, or more than 2^63 - 1.
std::optional<std::uint64_t> parse_amount(std::string_view text);
/// True for a name that `Section::name` accepts.
bool is_name(std::string_view text);
inline constexpr std::string_view kNameRule =
    "a name of 1 to 64 letters, digits, '-', '_' or '.', not beginning with '-' or '.'";

}  // namespace causeway::config

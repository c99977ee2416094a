#include "daemon/config/section.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>

namespace causeway::config {
namespace {

/// Least number of letters to insert, remove or replace to get from one word to the other.
std::size_t edit_distance(std::string_view left, std::string_view right) {
  std::vector<std::size_t> row(right.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < left.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < right.size(); ++j) {
      const std::size_t replaced = diagonal + (left[i] == right[j] ? 0u : 1u);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

std::string_view nearest(std::string_view word, std::initializer_list<std::string_view> known) {
  constexpr std::size_t kLongestKey = 32;
  constexpr std::size_t kClose = 2;
  if (word.size() > kLongestKey) return {};
  const auto best = std::ranges::min_element(known, {}, [&](auto other) { return edit_distance(word, other); });
  if (best == known.end() || edit_distance(word, *best) > kClose) return {};
  return *best;
}

bool is_letter_or_digit(char character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
         (character >= '0' && character <= '9');
}

}  // namespace

bool is_name(std::string_view text) {
  constexpr std::size_t kLongest = 64;
  if (text.empty() || text.size() > kLongest || text.front() == '-' || text.front() == '.') return false;
  return std::ranges::all_of(text, [](char c) { return is_letter_or_digit(c) || c == '-' || c == '_' || c == '.'; });
}

std::string Section::one_of(std::span<const std::string_view> words) {
  std::string result;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i != 0) result += i + 1 == words.size() ? " or " : ", ";
    result += quote(words[i]);
  }
  return result;
}

Failure Section::error(std::uint32_t line, std::string_view what) const {
  return fail(Errc::invalid_value, fmt::format("{}:{}: {}: {}", file_, line, subject_, what));
}

Failure Section::bad(std::string_view key, std::string_view expected) const {
  const Member* member = table_->find(key);
  if (member == nullptr) return missing(key, expected);
  return error(member->line, fmt::format("key '{}' is {}; expected {}", key, describe(member->value), expected));
}

Failure Section::missing(std::string_view key, std::string_view expected) const {
  return error(std::max(table_->line, 1u), fmt::format("key '{}' is missing; expected {}", key, expected));
}

Result<void> Section::allow_only(std::initializer_list<std::string_view> known) const {
  for (const Member& member : table_->members) {
    if (std::ranges::find(known, member.key) != known.end()) continue;
    const std::string_view close = nearest(member.key, known);
    if (!close.empty()) {
      return error(member.line, fmt::format("key {} is unknown; did you mean '{}'?", quote(member.key), close));
    }
    return error(member.line,
                 fmt::format("key {} is unknown; expected one of {}", quote(member.key), fmt::join(known, ", ")));
  }
  return {};
}

Result<std::optional<std::string>> Section::text(std::string_view key, std::string_view expected) const {
  const Member* member = table_->find(key);
  if (member == nullptr) return std::optional<std::string>();
  const auto* text = std::get_if<std::string>(&member->value.data);
  if (text == nullptr) return bad(key, expected);
  return std::optional(*text);
}

Result<std::string> Section::required_text(std::string_view key, std::string_view expected) const {
  CW_TRY(auto found, text(key, expected));
  if (!found) return missing(key, expected);
  return std::move(*found);
}

Result<std::optional<std::int64_t>> Section::whole(std::string_view key, std::int64_t least, std::int64_t most) const {
  const Member* member = table_->find(key);
  if (member == nullptr) return std::optional<std::int64_t>();
  const auto* number = std::get_if<std::int64_t>(&member->value.data);
  if (number == nullptr || *number < least || *number > most) {
    return bad(key, fmt::format("a whole number from {} to {}", least, most));
  }
  return std::optional(*number);
}

std::optional<std::uint64_t> parse_amount(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return std::nullopt;
  const std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  constexpr std::string_view kSuffixes = "KMGT";
  unsigned shift = 0;
  if (!suffix.empty()) {
    const std::size_t power = kSuffixes.find(suffix.front());
    if (suffix.size() != 1 || power == std::string_view::npos) return std::nullopt;
    shift = 10 * (static_cast<unsigned>(power) + 1);
  }
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (number > kMost >> shift) return std::nullopt;
  return number << shift;
}

Result<std::optional<std::uint64_t>> Section::amount(std::string_view key, std::uint64_t least) const {
  const Member* member = table_->find(key);
  if (member == nullptr) return std::optional<std::uint64_t>();
  std::optional<std::uint64_t> value;
  if (const auto* number = std::get_if<std::int64_t>(&member->value.data); number != nullptr && *number >= 0) {
    value = static_cast<std::uint64_t>(*number);
  } else if (const auto* text = std::get_if<std::string>(&member->value.data)) {
    value = parse_amount(*text);
  }
  if (value && *value >= least) return value;
  return bad(key, fmt::format("a whole number of at least {}, or one such as \"64M\"", least));
}

Result<bool> Section::flag(std::string_view key, bool fallback) const {
  const Member* member = table_->find(key);
  if (member == nullptr) return fallback;
  const auto* flag = std::get_if<bool>(&member->value.data);
  if (flag == nullptr) return bad(key, "true or false");
  return *flag;
}

Result<std::optional<std::vector<std::string>>> Section::texts(std::string_view key, std::string_view expected) const {
  const Member* member = table_->find(key);
  if (member == nullptr) return std::optional<std::vector<std::string>>();
  const auto* array = std::get_if<Array>(&member->value.data);
  if (array == nullptr) return bad(key, expected);
  std::vector<std::string> result;
  for (const Value& entry : *array) {
    const auto* text = std::get_if<std::string>(&entry.data);
    if (text == nullptr) {
      return error(member->line, fmt::format("key '{}' contains {}; expected {}", key, describe(entry), expected));
    }
    result.push_back(*text);
  }
  return std::optional(std::move(result));
}

Result<std::optional<std::string>> Section::name(std::string_view key) const {
  CW_TRY(auto found, text(key, kNameRule));
  if (found && !is_name(*found)) return bad(key, kNameRule);
  return found;
}

}  // namespace causeway::config

// What a fuzzer that goes step by step needs: its input as numbers, and a way to say what must hold.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <source_location>
#include <span>

namespace causeway::testing {

/// Ends the process, which the fuzzer takes for a finding, and says where.
inline void require(bool holds, std::source_location where = std::source_location::current()) {
  if (holds) return;
  fmt::print(stderr, "{}:{}: does not hold\n", where.file_name(), where.line());
  std::abort();
}

/// Bytes of the input one after the other; zeros behind its end.
class FuzzInput {
 public:
  explicit FuzzInput(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  bool is_empty() const { return bytes_.empty(); }
  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const std::uint8_t value = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return value;
  }
  std::uint16_t word() {
    const std::uint16_t low = byte();
    return static_cast<std::uint16_t>(low | byte() << 8);
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

}  // namespace causeway::testing

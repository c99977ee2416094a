// Answers of VFIO, put together by hand.
#pragma once

#include "vfio/structure.h"

#include <linux/vfio.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <vector>

namespace causeway::vfio {

/// A structure with a list of capabilities behind it.
template <class Head>
class Answer {
 public:
  explicit Answer(const Head& head) {
    const auto bytes = bytes_of(head);
    bytes_.assign(bytes.begin(), bytes.end());
  }

  /// Adds one at the list's end.
  Answer& capability(std::uint16_t id, std::uint16_t version, std::span<const std::byte> contents) {
    link(static_cast<std::uint32_t>(bytes_.size()));
    last_ = bytes_.size();
    append(bytes_of(vfio_info_cap_header{.id = id, .version = version, .next = 0}));
    append(contents);
    return *this;
  }
  /// One that lists pairs of numbers, and says that it lists `count` of them.
  Answer& pairs(std::uint16_t id, std::uint32_t count, std::initializer_list<std::uint64_t> numbers) {
    std::vector<std::byte> contents;
    const auto add = [&contents](auto value) {
      const auto bytes = bytes_of(value);
      contents.insert(contents.end(), bytes.begin(), bytes.end());
    };
    add(std::uint64_t{count});
    for (const std::uint64_t number : numbers) add(number);
    return capability(id, 1, contents);
  }
  /// Makes the last one of the list point on.
  Answer& link(std::uint32_t next) {
    const std::size_t at = last_ == 0 ? offsetof(Head, cap_offset) : last_ + offsetof(vfio_info_cap_header, next);
    std::memcpy(bytes_.data() + at, &next, sizeof next);
    return *this;
  }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  void append(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }

  std::vector<std::byte> bytes_;
  std::size_t last_ = 0;  // where the last capability begins; 0: there is none
};

}  // namespace causeway::vfio

// State that goes to another process, or to a file for a later one: numbers, texts and descriptors in a row.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"
#include "base/unix_socket.h"

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace causeway {

/// Appends values. Numbers are little-endian; texts and byte strings have their length (32 bits) before them.
class ParcelWriter {
 public:
  void number(std::unsigned_integral auto value) {
    for (std::size_t i = 0; i < sizeof value; ++i) bytes_.push_back(static_cast<std::byte>(value >> (8 * i)));
  }
  void flag(bool value) { number(static_cast<std::uint8_t>(value ? 1 : 0)); }
  void text(std::string_view value) { bytes(std::as_bytes(std::span(value))); }
  void bytes(std::span<const std::byte> value);
  /// `fd` must stay open until the parcel is sent. One that is written twice is sent once.
  void descriptor(const OwnedFd& fd);

  std::span<const std::byte> contents() const { return bytes_; }
  std::span<const OwnedFd* const> descriptors() const { return fds_; }

 private:
  std::vector<std::byte> bytes_;
  std::vector<const OwnedFd*> fds_;
};

/// What has arrived, with the descriptors owned.
struct Parcel {
  std::vector<std::byte> bytes;
  std::vector<OwnedFd> fds;
};

/// Reads the same values in the same order. What does not fit makes it fail for good: from then on every value is zero
/// or empty, so that `finish` need be asked only once, before anything is used.
class ParcelReader {
 public:
  explicit ParcelReader(Parcel parcel) : parcel_(std::move(parcel)), rest_(parcel_.bytes) {}
  ParcelReader(const ParcelReader&) = delete;
  ParcelReader& operator=(const ParcelReader&) = delete;

  template <std::unsigned_integral T>
  T number() {
    T value = 0;
    const auto from = take(sizeof(T));
    for (std::size_t i = 0; i < from.size(); ++i) {
      value = static_cast<T>(value | static_cast<T>(std::to_integer<T>(from[i]) << (8 * i)));
    }
    return value;
  }
  /// Anything but 0 and 1 is a failure, so that each state has one form only.
  bool flag();
  std::string text();
  std::vector<std::byte> bytes();
  /// Length of a list whose entries take at least `least` bytes each.
  std::uint32_t count(std::size_t least);
  /// Another descriptor of the same open file.
  Result<OwnedFd> descriptor();

  /// What was read makes no sense to its reader.
  void refuse(std::string why);
  bool has_failed() const { return !failure_.empty(); }
  /// Errc::peer_violation: a value was cut off or wrong, or something follows the last one.
  Result<void> finish() const;

 private:
  std::span<const std::byte> take(std::size_t size);

  Parcel parcel_;
  std::span<const std::byte> rest_;
  std::string failure_;
};

/// Sends a parcel. Errc::system, Errc::gone: the other process does not take it.
Result<void> send_parcel(const UnixSocket& socket, const ParcelWriter& parcel);
/// Waits for a parcel, at most `patience`. Errc::gone: the other process has gone or says nothing;
/// Errc::peer_violation: it says something else.
Result<Parcel> receive_parcel(const UnixSocket& socket, std::chrono::milliseconds patience);

}  // namespace causeway

// Owned file descriptors. A descriptor has exactly one owner and is closed exactly once.
#pragma once

#include "base/result.h"

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace causeway {

/// A file descriptor that is owned. Move-only; a moved-from object may only be destroyed or assigned to.
/// There is no default-open state and no conversion to int or bool.
class OwnedFd {
 public:
  /// Takes over `raw`, which a system call has just returned; `raw` must be open.
  static OwnedFd adopt(int raw) { return OwnedFd(raw); }

  OwnedFd(OwnedFd&& other) noexcept : raw_(other.raw_) { other.raw_ = kMoved; }
  OwnedFd& operator=(OwnedFd&& other) noexcept;
  OwnedFd(const OwnedFd&) = delete;
  OwnedFd& operator=(const OwnedFd&) = delete;
  ~OwnedFd();

  /// The number, for the duration of a system call.
  int borrow() const { return raw_; }
  /// Another descriptor of the same open file, close-on-exec.
  Result<OwnedFd> duplicate() const;
  /// Gives the number up to a library that will close it.
  int release() &&;

 private:
  static constexpr int kMoved = -1;
  explicit OwnedFd(int raw) : raw_(raw) {}
  int raw_;
};

/// Which file a descriptor refers to: two descriptors of the same file compare equal.
struct FileIdentity {
  std::uint64_t device;
  std::uint64_t inode;
  bool operator==(const FileIdentity&) const = default;
};

Result<FileIdentity> identify(const OwnedFd& fd);
/// Size of a regular file or memfd in bytes.
Result<std::uint64_t> size_of(const OwnedFd& fd);
/// An anonymous file of `size` bytes that can be shared with another process and mapped.
Result<OwnedFd> make_memfd(const std::string& name, std::uint64_t size);

}  // namespace causeway

// Mappings of memory files, and how we survive a file that shrinks under us.
#pragma once

#include "base/event_fd.h"
#include "base/owned_fd.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace causeway {

/// Size of a page of this machine in bytes.
std::size_t page_size();

/// A shared, writable mapping of part of a memory file. Unmapped when destroyed. Thread: any (immutable but for
/// `lost`).
class Mapping {
 public:
  /// Maps `size` bytes at `offset` of `file`. Neither need be aligned: the mapping is widened to the file's own page
  /// size (hugetlbfs included). Refuses an empty range, one that wraps, and one that ends behind the end of the file.
  static Result<std::shared_ptr<const Mapping>> map(const OwnedFd& file, std::uint64_t offset, std::uint64_t size);

  /// Whole pages of a file.
  struct Piece {
    const OwnedFd& file;
    std::uint64_t offset;
    std::uint64_t size;
  };
  /// Maps pieces side by side, in this order. Errc::not_supported: one of them is not whole pages of its file, or not
  /// inside it.
  static Result<std::shared_ptr<const Mapping>> map_together(std::span<const Piece> pieces);

  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  /// The first byte asked for. Only the module `memory` may look behind it.
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  /// The whole pages of the file that hold it.
  std::span<const std::byte> pages() const { return {base_, mapped_}; }
  /// True once an access failed because the file had been truncated; the range then reads as zeros for ever.
  bool is_lost() const;

 private:
  static Result<std::shared_ptr<const Mapping>> own(void* base, std::size_t mapped, std::size_t skip, std::size_t size);
  Mapping(std::byte* base, std::size_t mapped, std::size_t skip, std::size_t size, std::size_t slot)
      : base_(base), mapped_(mapped), data_(base + skip), size_(size), slot_(slot) {}
  std::byte* base_;
  std::size_t mapped_;
  std::byte* data_;
  std::size_t size_;
  std::size_t slot_;
};

/// Installs the SIGBUS handler that turns a lost Mapping into zeros; `on_loss` is signalled after each loss.
/// Call once, before any mapping is used, in programs that map memory of others. The process keeps the eventfd for
/// ever: a signal handler has no other state than the process's.
Result<void> survive_lost_mappings(std::shared_ptr<const EventFd> on_loss);

}  // namespace causeway

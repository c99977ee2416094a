// A disk in memory, and one that keeps nothing: for scratch space, tests and benchmarks.
#pragma once

#include "base/mapping.h"

#include <memory>
#include <optional>
#include <string>

#include "blk/store.h"

namespace causeway::blk {

/// Bytes in a memory file, which starts as zeros. They live as long as the process, or its successor that takes over
/// the descriptor. Operations are done at once.
class RamStore final : public Store {
 public:
  /// `inherited`: the memory file of a process before us, of the same size. Errc::invalid_value: another size.
  static Result<std::shared_ptr<RamStore>> make(std::uint64_t bytes, std::optional<OwnedFd> inherited = std::nullopt);

  const std::string& name() const override { return name_; }
  std::uint64_t bytes() const override { return memory_->size(); }
  bool is_read_only() const override { return false; }
  std::uint32_t block_size() const override { return 1; }
  Result<void> refresh() override { return {}; }
  Result<std::unique_ptr<Channel>> open_channel(std::uint32_t depth) override;
  const OwnedFd* descriptor() const override { return &file_; }

 private:
  RamStore(OwnedFd file, std::shared_ptr<const Mapping> memory);
  std::string name_;
  OwnedFd file_;
  std::shared_ptr<const Mapping> memory_;
};

/// Reads as zeros, forgets what is written.
class NullStore final : public Store {
 public:
  explicit NullStore(std::uint64_t bytes);

  const std::string& name() const override { return name_; }
  std::uint64_t bytes() const override { return bytes_; }
  bool is_read_only() const override { return false; }
  std::uint32_t block_size() const override { return 1; }
  Result<void> refresh() override { return {}; }
  Result<std::unique_ptr<Channel>> open_channel(std::uint32_t depth) override;
  const OwnedFd* descriptor() const override { return nullptr; }

 private:
  std::string name_;
  std::uint64_t bytes_;
};

}  // namespace causeway::blk

// A disk in a file or on a block device, by io_uring.
#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "blk/store.h"

namespace causeway::blk {

struct FileStoreConfig {
  std::filesystem::path path;  ///< a regular file, or a block device
  bool read_only = false;
  bool direct = false;  ///< O_DIRECT: past the page cache
  /// Other processes that say the same may have it at the same time, such as an accelerator that works queues of the
  /// same disk. Whoever uses it must see to it that no request runs on both.
  bool shared = false;
  /// How long to wait for the lock: the kernel holds that of a process that was killed until its last operation is
  /// done, so that no write of the dead can land on one of the living.
  std::chrono::milliseconds lock_patience{10'000};
};

/// Invariant: no other process that asks for the lock (flock: exclusive; shared when read-only, or as told) has the
/// file.
class FileStore final : public Store {
 public:
  /// `inherited`: the descriptor of a process before us, with its lock. Errc::busy: another process has the file;
  /// Errc::invalid_value: it is neither a file nor a block device, or direct access is not possible; Errc::system: it
  /// cannot be opened. All name the path.
  static Result<std::shared_ptr<FileStore>> open(FileStoreConfig config,
                                                 std::optional<OwnedFd> inherited = std::nullopt);

  const std::string& name() const override { return name_; }
  std::uint64_t bytes() const override { return bytes_.load(std::memory_order_relaxed); }
  bool is_read_only() const override { return config_.read_only; }
  std::uint32_t block_size() const override { return block_size_; }
  Result<void> refresh() override;
  Result<std::unique_ptr<Channel>> open_channel(std::uint32_t depth) override;
  const OwnedFd* descriptor() const override { return &file_; }

 private:
  FileStore(FileStoreConfig config, OwnedFd file)
      : config_(std::move(config)), name_("file:" + config_.path.native()), file_(std::move(file)) {}
  Result<void> examine();

  FileStoreConfig config_;
  std::string name_;
  OwnedFd file_;
  std::atomic<std::uint64_t> bytes_{0};
  std::uint32_t block_size_ = 1;        // of offsets and lengths
  std::uint32_t memory_alignment_ = 1;  // of buffers
};

}  // namespace causeway::blk

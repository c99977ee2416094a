#include "blk/file_store.h"

#include "base/log.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "blk/uring_channel.h"

namespace causeway::blk {
namespace {

Result<OwnedFd> open_file(const FileStoreConfig& config) {
  const int flags = (config.read_only ? O_RDONLY : O_RDWR) | (config.direct ? O_DIRECT : 0) | O_CLOEXEC;
  const int raw = ::open(config.path.c_str(), flags);
  if (raw >= 0) return OwnedFd::adopt(raw);
  if (errno == EINVAL && config.direct) {
    return fail(Errc::invalid_value, fmt::format("'{}' cannot be opened for direct access", config.path.native()));
  }
  return fail(system_error(fmt::format("open '{}'", config.path.native())));
}

Result<void> lock(const OwnedFd& file, const FileStoreConfig& config) {
  // That of a process that was killed comes back with the end of its last operation: a matter of milliseconds.
  constexpr std::chrono::milliseconds kStep(1);
  constexpr std::chrono::milliseconds kWorthTelling(50);
  const int operation = (config.read_only || config.shared ? LOCK_SH : LOCK_EX) | LOCK_NB;
  for (auto waited = std::chrono::milliseconds(0); ::flock(file.borrow(), operation) != 0; waited += kStep) {
    if (errno != EWOULDBLOCK && errno != EINTR) return fail(system_error("lock '" + config.path.native() + "'"));
    if (waited >= config.lock_patience) {
      return fail(Errc::busy, fmt::format("'{}' is in use by another process", config.path.native()));
    }
    if (waited == kWorthTelling) log::info("'{}' is in use; waiting for it", config.path.native());
    std::this_thread::sleep_for(kStep);
  }
  return {};
}

Result<struct stat> status_of(const OwnedFd& file) {
  struct stat status{};
  if (::fstat(file.borrow(), &status) != 0) return fail(system_error("fstat"));
  return status;
}

}  // namespace

Result<std::shared_ptr<FileStore>> FileStore::open(FileStoreConfig config, std::optional<OwnedFd> inherited) {
  if (!inherited) {
    CW_TRY(inherited, open_file(config));
    CW_CHECK(lock(*inherited, config));
  }
  std::shared_ptr<FileStore> store(new FileStore(std::move(config), std::move(*inherited)));
  CW_CHECK(store->examine());
  return store;
}

Result<void> FileStore::examine() {
  CW_TRY(const auto status, status_of(file_));
  if (S_ISBLK(status.st_mode)) {
    int logical = 0;
    if (::ioctl(file_.borrow(), BLKSSZGET, &logical) != 0) return fail(system_error("BLKSSZGET on " + name_));
    if (config_.direct) block_size_ = memory_alignment_ = static_cast<std::uint32_t>(logical);
  } else if (S_ISREG(status.st_mode)) {
    struct statx more{};
    if (config_.direct && ::statx(file_.borrow(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &more) == 0 &&
        (more.stx_mask & STATX_DIOALIGN) != 0) {
      block_size_ = more.stx_dio_offset_align;
      memory_alignment_ = more.stx_dio_mem_align;
    } else if (config_.direct) {
      block_size_ = memory_alignment_ = 4096;
    }
    if (block_size_ == 0) {
      return fail(Errc::invalid_value, fmt::format("'{}' has no direct access", config_.path.native()));
    }
  } else {
    return fail(Errc::invalid_value, fmt::format("'{}' is neither a file nor a block device", config_.path.native()));
  }
  return refresh();
}

Result<void> FileStore::refresh() {
  CW_TRY(const auto status, status_of(file_));
  std::uint64_t bytes = static_cast<std::uint64_t>(status.st_size);
  if (S_ISBLK(status.st_mode) && ::ioctl(file_.borrow(), BLKGETSIZE64, &bytes) != 0) {
    return fail(system_error("BLKGETSIZE64 on " + name_));
  }
  bytes_.store(bytes, std::memory_order_relaxed);
  return {};
}

Result<std::unique_ptr<Channel>> FileStore::open_channel(std::uint32_t depth) {
  return UringChannel::open(file_, depth, memory_alignment_);
}

}  // namespace causeway::blk

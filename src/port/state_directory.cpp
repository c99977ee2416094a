#include "port/state_directory.h"

#include "base/log.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

namespace causeway::port {
namespace {

constexpr std::string_view kLock = ".lock";
constexpr std::string_view kUnfinished = ".new";  // suffix of what is being written
constexpr mode_t kOwnerOnly = S_IRUSR | S_IWUSR;

Result<OwnedFd> open_raw(const std::filesystem::path& path, int flags) {
  const int raw = ::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, kOwnerOnly);
  if (raw < 0) return fail(system_error(fmt::format("open '{}'", path.native())));
  return OwnedFd::adopt(raw);
}

Result<void> write_all(const OwnedFd& file, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file.borrow(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(system_error(fmt::format("write '{}'", path.native())));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

/// The kernel gives the lock of a killed process back only when its last operation has ended.
Result<OwnedFd> take_lock(const std::filesystem::path& directory) {
  constexpr std::chrono::seconds kPatience{10};
  constexpr std::chrono::milliseconds kWorthTelling{50};
  CW_TRY(auto lock, open_raw(directory / kLock, O_RDWR | O_CREAT));
  const auto begin = std::chrono::steady_clock::now();
  bool is_told = false;
  while (::flock(lock.borrow(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail(system_error(fmt::format("lock '{}'", directory.native())));
    const auto waited = std::chrono::steady_clock::now() - begin;
    if (waited > kWorthTelling && !std::exchange(is_told, true)) {
      log::info("the state directory '{}' is in use; waiting for it", directory.native());
    }
    if (waited > kPatience) {
      return fail(Errc::busy, fmt::format("the state directory '{}' belongs to another process", directory.native()));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return lock;
}

void remove_unfinished(const std::filesystem::path& directory) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    if (entry.path().native().ends_with(kUnfinished)) std::filesystem::remove(entry.path(), ignored);
  }
}

}  // namespace

Result<std::shared_ptr<StateDirectory>> StateDirectory::open(std::filesystem::path path, std::optional<OwnedFd> lock) {
  if (::mkdir(path.c_str(), S_IRWXU) != 0 && errno != EEXIST) {
    return fail(system_error(fmt::format("make the state directory '{}'", path.native())));
  }
  if (!lock) {
    CW_TRY(lock, take_lock(path));
    remove_unfinished(path);
  }
  return std::shared_ptr<StateDirectory>(new StateDirectory(std::move(path), std::move(*lock)));
}

Result<void> StateDirectory::save(std::string_view name, std::span<const std::byte> bytes) const {
  const auto unfinished = path_of(std::string(name).append(kUnfinished));
  auto done = [&]() -> Result<void> {
    CW_TRY(const auto file, open_raw(unfinished, O_WRONLY | O_CREAT | O_TRUNC));
    CW_CHECK(write_all(file, bytes, unfinished));
    if (::rename(unfinished.c_str(), path_of(name).c_str()) == 0) return {};
    return fail(system_error(fmt::format("rename '{}'", unfinished.native())));
  }();
  if (done) return {};
  remove(name);
  ::unlink(unfinished.c_str());
  return done;
}

Result<std::optional<std::vector<std::byte>>> StateDirectory::load(std::string_view name) const {
  const auto path = path_of(name);
  auto file = open_raw(path, O_RDONLY);
  if (!file && file.error().sys_errno == ENOENT) return std::optional<std::vector<std::byte>>();
  if (!file) return fail(std::move(file).error());
  std::vector<std::byte> bytes;
  std::array<std::byte, 4096> piece{};
  for (;;) {
    const ssize_t count = ::read(file->borrow(), piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(system_error(fmt::format("read '{}'", path.native())));
    if (count == 0) return std::optional(std::move(bytes));
    bytes.insert(bytes.end(), piece.begin(), piece.begin() + count);
  }
}

void StateDirectory::remove(std::string_view name) const {
  ::unlink(path_of(name).c_str());
}

Result<OwnedFd> StateDirectory::open_file(std::string_view name, std::uint64_t size) const {
  const auto path = path_of(name);
  CW_TRY(auto file, open_raw(path, O_RDWR | O_CREAT));
  CW_TRY(const auto present, size_of(file));
  if (present == size) return file;
  // In two steps, so that nothing of the old contents stays. The space is taken now: a full tmpfs would kill us later.
  if (::ftruncate(file.borrow(), 0) != 0) return fail(system_error(fmt::format("truncate '{}'", path.native())));
  const int error = ::posix_fallocate(file.borrow(), 0, static_cast<off_t>(size));
  if (error == 0) return file;
  ::unlink(path.c_str());
  return fail(system_error(fmt::format("take {} bytes for '{}'", size, path.native()), error));
}

}  // namespace causeway::port

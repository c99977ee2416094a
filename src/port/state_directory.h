// Files in which ports keep what must survive this process.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace causeway::port {

/// A directory that belongs to one process at a time, best on a tmpfs: it is to survive the process, not the machine.
/// A file is replaced whole, so that a SIGKILL between any two instructions leaves the old one or the new one.
/// Thread: control.
class StateDirectory {
 public:
  /// Makes the directory (mode 0700) where it is missing and takes its lock; removes what a killed process has left
  /// half-written. `lock`: that of the process before us, which has handed it over. Errc::busy: another process has
  /// it; Errc::system: it cannot be used. The text names the path.
  static Result<std::shared_ptr<StateDirectory>> open(std::filesystem::path path,
                                                      std::optional<OwnedFd> lock = std::nullopt);

  /// Replaces the file `name`, a name without slashes that does not begin with a dot. On an error the old file is gone
  /// too: nothing that is no longer true stays.
  Result<void> save(std::string_view name, std::span<const std::byte> bytes) const;
  /// Nothing when there is no such file.
  Result<std::optional<std::vector<std::byte>>> load(std::string_view name) const;
  void remove(std::string_view name) const;
  /// A file of `size` bytes to be mapped, with what was in it when it had that size already, else zeros.
  Result<OwnedFd> open_file(std::string_view name, std::uint64_t size) const;

  std::filesystem::path path_of(std::string_view name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }
  const OwnedFd& lock() const { return lock_; }

 private:
  StateDirectory(std::filesystem::path path, OwnedFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::filesystem::path path_;
  OwnedFd lock_;
};

}  // namespace causeway::port

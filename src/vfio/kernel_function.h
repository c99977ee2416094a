// The file of a PCI function, as the kernel's VFIO gives it.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"
#include "vfio/bus.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace causeway::vfio {

/// Says nothing about a function that has gone but what the kernel says: Errc::system with an errno.
class KernelFunction {
 public:
  /// Takes over the file, and asks what the function is.
  static Result<KernelFunction> make(OwnedFd fd, std::string name);

  /// All but the IOVAs.
  const BusInfo& info() const { return info_; }
  Result<void> read(RegionIndex region, std::uint64_t offset, std::span<std::byte> to) const;
  Result<void> write(RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) const;
  std::optional<RegionFile> file_of(RegionIndex region, Area area) const;

  /// Enables MSI-X anew with `count` vectors, at most those there are, none of which signals; 0 disables it.
  Result<void> enable_vectors(std::uint32_t count);
  Result<void> set_vector(std::uint32_t vector, const OwnedFd* event) const;
  /// What the kernel signals when it wants the function back; false: it does not tell.
  Result<bool> set_request_event(const OwnedFd& event) const;
  Result<void> reset();

  /// Whether something still answers behind the file.
  bool is_there() const;
  /// From now on it reaches no memory, whoever else has it open.
  void end_dma() const;
  /// Lets go of the function. The descriptor stays open, on the file of another one.
  void let_go(const OwnedFd& replacement) const;

 private:
  KernelFunction(OwnedFd fd, std::string name) : fd_(std::move(fd)) { info_.name = std::move(name); }
  Result<void> ask_regions(std::uint32_t count);
  Result<std::uint32_t> ask_interrupt_count(std::uint32_t index) const;
  Result<void> check_access(RegionIndex region, std::uint64_t offset, std::size_t size, bool is_allowed,
                            const char* verb) const;
  Result<void> set_interrupts(std::uint32_t index, std::uint32_t start, std::span<const std::int32_t> events) const;

  OwnedFd fd_;
  BusInfo info_;
  std::array<std::uint64_t, kRegions> offsets_{};
  std::uint32_t enabled_ = 0;  // MSI-X vectors
};

}  // namespace causeway::vfio

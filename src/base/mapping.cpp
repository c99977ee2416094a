#include "base/mapping.h"

#include <fmt/format.h>

#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <csignal>
#include <limits>

namespace causeway {
namespace {

// What the SIGBUS handler must know lies in fixed storage that it can read at any instant without a lock. A slot is
// published by its `size` (release) and retired the same way; the handler runs on the thread that touched the mapping,
// which therefore still exists.
struct Slot {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::size_t> size{0};
  std::atomic<bool> taken{false};
  std::atomic<bool> lost{false};
};

constexpr std::size_t kSlots = 32768;
std::array<Slot, kSlots> slots;
std::atomic<std::size_t> next_slot{0};
std::atomic<int> loss_event{-1};

Result<std::size_t> take_slot(std::uintptr_t begin, std::size_t size) {
  const std::size_t start = next_slot.fetch_add(1, std::memory_order_relaxed);
  for (std::size_t i = 0; i < kSlots; ++i) {
    const std::size_t index = (start + i) % kSlots;
    Slot& slot = slots[index];
    if (slot.taken.exchange(true, std::memory_order_acquire)) continue;
    slot.lost.store(false, std::memory_order_relaxed);
    slot.begin.store(begin, std::memory_order_relaxed);
    slot.size.store(size, std::memory_order_release);
    return index;
  }
  return fail(Errc::busy, fmt::format("more than {} memory regions are mapped", kSlots));
}

void give_slot(std::size_t index) {
  slots[index].size.store(0, std::memory_order_release);
  slots[index].taken.store(false, std::memory_order_release);
}

/// Puts zero pages in place of the mapping that holds `address`. Only async-signal-safe calls.
bool replace_lost(std::uintptr_t address) {
  for (Slot& slot : slots) {
    const std::size_t size = slot.size.load(std::memory_order_acquire);
    const std::uintptr_t begin = slot.begin.load(std::memory_order_relaxed);
    if (size == 0 || address < begin || address - begin >= size) continue;
    // SAFETY: the range is a mapping of ours; the faulting thread is using it, so it is not being unmapped.
    void* const base = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr): the kernel gave an address
    if (::mmap(base, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) ==
        MAP_FAILED) {
      return false;
    }
    slot.lost.store(true, std::memory_order_release);
    const std::uint64_t one = 1;
    const int event = loss_event.load(std::memory_order_relaxed);
    if (event >= 0) [[maybe_unused]]
      const auto written = ::write(event, &one, sizeof one);
    return true;
  }
  return false;
}

void on_bus_error(int signal, siginfo_t* info, void* /*context*/) {
  const int saved = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (info->si_code != BUS_ADRERR || !replace_lost(address)) {
    // Not ours: let the fault happen again and end the process as it would have.
    struct sigaction standard{};
    standard.sa_handler = SIG_DFL;
    ::sigaction(signal, &standard, nullptr);
  }
  errno = saved;
}

constexpr long kHugetlbfsMagic = 0x958458f6;

/// Pages of hugetlbfs must be mapped whole; all others by the machine's page.
Result<std::size_t> mapping_granularity(const OwnedFd& file) {
  struct statfs status{};
  if (::fstatfs(file.borrow(), &status) != 0) return fail(system_error("fstatfs"));
  if (status.f_type == kHugetlbfsMagic) return static_cast<std::size_t>(status.f_bsize);
  return page_size();
}

}  // namespace

std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

Result<std::shared_ptr<const Mapping>> Mapping::map(const OwnedFd& file, std::uint64_t offset, std::uint64_t size) {
  CW_TRY(const auto file_size, size_of(file));
  if (size == 0) return fail(Errc::peer_violation, "a mapping of 0 bytes");
  if (offset > file_size || size > file_size - offset) {
    return fail(Errc::peer_violation, fmt::format("{:#x} bytes at offset {:#x} end behind the end of the file, {:#x}",
                                                  size, offset, file_size));
  }
  CW_TRY(const auto granularity, mapping_granularity(file));
  const std::uint64_t skip = offset % granularity;
  const std::uint64_t wanted = skip + size;
  if (wanted > std::numeric_limits<std::size_t>::max() / 2 - granularity) {
    return fail(Errc::peer_violation, fmt::format("a mapping of {:#x} bytes", size));
  }
  const std::uint64_t mapped = (wanted + granularity - 1) / granularity * granularity;
  void* const base = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file.borrow(),
                            static_cast<off_t>(offset - skip));
  if (base == MAP_FAILED) return fail(system_error(fmt::format("mmap {:#x} bytes at offset {:#x}", size, offset)));
  return own(base, mapped, skip, size);
}

Result<std::shared_ptr<const Mapping>> Mapping::map_together(std::span<const Piece> pieces) {
  std::uint64_t total = 0;
  for (const Piece& piece : pieces) {
    CW_TRY(const auto file_size, size_of(piece.file));
    CW_TRY(const auto granularity, mapping_granularity(piece.file));
    if (piece.size == 0 || piece.size % granularity != 0 || piece.offset % granularity != 0) {
      return fail(Errc::not_supported, fmt::format("{:#x} bytes at offset {:#x} are not whole pages of {} bytes",
                                                   piece.size, piece.offset, granularity));
    }
    if (piece.offset > file_size || piece.size > file_size - piece.offset) {
      return fail(Errc::not_supported, fmt::format("{:#x} bytes at offset {:#x} end behind the end of the file, {:#x}",
                                                   piece.size, piece.offset, file_size));
    }
    total += piece.size;
  }
  if (total == 0) return fail(Errc::not_supported, "a mapping of 0 bytes");
  // The place is reserved first, so that nothing else comes to lie there.
  void* const base = ::mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return fail(system_error(fmt::format("mmap {:#x} bytes", total)));
  std::uint64_t at = 0;
  for (const Piece& piece : pieces) {
    if (::mmap(static_cast<std::byte*>(base) + at, piece.size, PROT_READ | PROT_WRITE,
               MAP_SHARED | MAP_NORESERVE | MAP_FIXED, piece.file.borrow(),
               static_cast<off_t>(piece.offset)) == MAP_FAILED) {
      auto error = system_error(fmt::format("mmap {:#x} bytes at offset {:#x}", piece.size, piece.offset));
      ::munmap(base, total);
      return fail(std::move(error));
    }
    at += piece.size;
  }
  return own(base, total, 0, total);
}

/// Takes a mapping that has just been made.
Result<std::shared_ptr<const Mapping>> Mapping::own(void* base, std::size_t mapped, std::size_t skip,
                                                    std::size_t size) {
  auto slot = take_slot(std::bit_cast<std::uintptr_t>(base), mapped);
  if (!slot) {
    ::munmap(base, mapped);
    return fail(std::move(slot).error());
  }
  // A core dump of ours must not hold the guest's memory.
  ::madvise(base, mapped, MADV_DONTDUMP);
  return std::shared_ptr<const Mapping>(new Mapping(static_cast<std::byte*>(base), mapped, skip, size, *slot));
}

Mapping::~Mapping() {
  give_slot(slot_);
  ::munmap(base_, mapped_);
}

bool Mapping::is_lost() const {
  return slots[slot_].lost.load(std::memory_order_acquire);
}

Result<void> survive_lost_mappings(std::shared_ptr<const EventFd> on_loss) {
  static std::shared_ptr<const EventFd> kept;  // outlives every signal
  kept = std::move(on_loss);
  loss_event.store(kept->fd().borrow(), std::memory_order_relaxed);
  struct sigaction action{};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  if (::sigaction(SIGBUS, &action, nullptr) != 0) return fail(system_error("sigaction SIGBUS"));
  return {};
}

}  // namespace causeway

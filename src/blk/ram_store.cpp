#include "blk/ram_store.h"

#include <fmt/format.h>

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace causeway::blk {
namespace {

/// As of guest memory: two queues may write the same place at once, which is the driver's own doing.
void fill_with_zeros(const memory::GuestSpan& place) {
  static constexpr std::array<std::byte, 4096> kZeros{};
  for (std::size_t at = 0; at < place.size(); at += kZeros.size()) {
    place.write(at, std::span(kZeros).first(std::min(kZeros.size(), place.size() - at)));
  }
}

/// Does everything in `submit`.
class InstantChannel : public Channel {
 public:
  explicit InstantChannel(std::uint32_t depth) { done_.reserve(depth); }
  void submit(Operation& operation) final {
    operation.error = execute(operation);
    done_.push_back(&operation);
  }
  bool flush() final { return true; }
  Operation* reap() final {
    if (next_ != done_.size()) return done_[next_++];
    done_.clear();
    next_ = 0;
    return nullptr;
  }
  void wait() final {}
  const OwnedFd* event() const final { return nullptr; }
  bool arm() final { return false; }
  void disarm() final {}

 private:
  /// Returns 0 or an errno.
  virtual int execute(const Operation& operation) = 0;
  std::vector<Operation*> done_;
  std::size_t next_ = 0;  // of them to be given back
};

class RamChannel final : public InstantChannel {
 public:
  RamChannel(std::uint32_t depth, const OwnedFd& file, std::span<std::byte> memory)
      : InstantChannel(depth), file_(file), memory_(memory) {}

 private:
  int execute(const Operation& operation) override {
    using enum Operation::Kind;
    if (operation.offset > memory_.size() || operation.length > memory_.size() - operation.offset) return EIO;
    std::span<std::byte> place = memory_.subspan(operation.offset, operation.length);
    switch (operation.kind) {
      case read:
      case write:
        for (const memory::GuestSpan& piece : operation.data) {
          const auto here = place.first(piece.size());
          operation.kind == read ? piece.write(0, here) : piece.read(0, here);
          place = place.subspan(piece.size());
        }
        return 0;
      case zero:
        fill_with_zeros(memory::GuestSpan::over(place));
        return 0;
      case discard:
      case unmap:
        return punch(operation);
      case flush:
        return 0;
    }
    return EOPNOTSUPP;
  }
  int punch(const Operation& operation) {
    const int done = ::fallocate(file_.borrow(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 static_cast<off_t>(operation.offset), static_cast<off_t>(operation.length));
    return done == 0 ? 0 : errno;
  }

  const OwnedFd& file_;
  std::span<std::byte> memory_;
};

class NullChannel final : public InstantChannel {
 public:
  using InstantChannel::InstantChannel;

 private:
  int execute(const Operation& operation) override {
    if (operation.kind != Operation::Kind::read) return 0;
    for (const memory::GuestSpan& piece : operation.data) fill_with_zeros(piece);
    return 0;
  }
};

}  // namespace

Result<std::shared_ptr<RamStore>> RamStore::make(std::uint64_t bytes, std::optional<OwnedFd> inherited) {
  if (!inherited) {
    CW_TRY(inherited, make_memfd("causeway-disk", bytes));
  }
  CW_TRY(const std::uint64_t size, size_of(*inherited));
  if (size != bytes) {
    return fail(Errc::invalid_value,
                fmt::format("the disk in memory that was handed over has {} bytes, not {}", size, bytes));
  }
  CW_TRY(auto memory, Mapping::map(*inherited, 0, bytes));
  return std::shared_ptr<RamStore>(new RamStore(std::move(*inherited), std::move(memory)));
}

RamStore::RamStore(OwnedFd file, std::shared_ptr<const Mapping> memory)
    : name_(fmt::format("ram:{}", memory->size())), file_(std::move(file)), memory_(std::move(memory)) {}

Result<std::unique_ptr<Channel>> RamStore::open_channel(std::uint32_t depth) {
  return std::make_unique<RamChannel>(depth, file_, std::span(memory_->data(), memory_->size()));
}

NullStore::NullStore(std::uint64_t bytes) : name_(fmt::format("null:{}", bytes)), bytes_(bytes) {}

Result<std::unique_ptr<Channel>> NullStore::open_channel(std::uint32_t depth) {
  return std::make_unique<NullChannel>(depth);
}

}  // namespace causeway::blk

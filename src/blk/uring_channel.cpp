#include "blk/uring_channel.h"

#include <climits>
#include <fmt/format.h>

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

namespace causeway::blk {
namespace {

/// Zeros to write where a file system has no better way; more is written in several steps.
constexpr std::size_t kZeros = 1 << 20;

const iovec& zeros() {
  static std::byte* const memory = [] {
    auto* fresh = static_cast<std::byte*>(std::aligned_alloc(4096, kZeros));
    std::memset(fresh, 0, kZeros);
    return fresh;
  }();
  static const iovec part{.iov_base = memory, .iov_len = kZeros};
  return part;
}

bool is_transfer(const Operation& operation) {
  return operation.kind == Operation::Kind::read || operation.kind == Operation::Kind::write;
}

bool is_unsupported(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL;
}

}  // namespace

Result<std::unique_ptr<Channel>> UringChannel::open(const OwnedFd& file, std::uint32_t depth, std::uint32_t alignment) {
  CW_TRY(auto event, EventFd::make());
  std::unique_ptr<UringChannel> channel(new UringChannel(file, std::move(event), depth, alignment));
  CW_CHECK(channel->start(depth));
  return channel;
}

Result<void> UringChannel::start(std::uint32_t depth) {
  // The submission ring needs room for one pass only: a full one is handed over.
  const unsigned entries = std::min<unsigned>(std::bit_ceil(depth), 256);
  io_uring_params parameters{};
  const unsigned common = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  parameters.flags = common | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  parameters.cq_entries = std::bit_ceil(std::max<std::uint32_t>(depth, entries));
  int error = ::io_uring_queue_init_params(entries, &ring_, &parameters);
  if (error == -EINVAL) {  // a kernel before 6.1
    parameters = {};
    parameters.flags = common;
    parameters.cq_entries = std::bit_ceil(std::max<std::uint32_t>(depth, entries));
    error = ::io_uring_queue_init_params(entries, &ring_, &parameters);
  }
  if (error < 0) return fail(system_error("io_uring_setup", -error));
  is_open_ = true;
  ::io_uring_ring_dontfork(&ring_);
  // Its own descriptor would do for epoll, were it not for DEFER_TASKRUN, which wakes nobody who polls it.
  if (const int failed = ::io_uring_register_eventfd(&ring_, event_.fd().borrow()); failed < 0) {
    return fail(system_error("io_uring_register_eventfd", -failed));
  }
  disarm();
  for (Slot& slot : slots_) free_.push_back(&slot);
  return {};
}

UringChannel::~UringChannel() {
  if (is_open_) ::io_uring_queue_exit(&ring_);
}

io_uring_sqe* UringChannel::next_entry() {
  io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
  while (entry == nullptr) {
    flush();
    entry = ::io_uring_get_sqe(&ring_);
  }
  return entry;
}

void UringChannel::submit(Operation& operation) {
  Slot& slot = *free_.back();
  free_.pop_back();
  slot.operation = &operation;
  slot.progress = 0;
  slot.fills_by_writing = false;
  if (is_transfer(operation) && needs_bounce(operation) && !take_bounce(slot)) {
    operation.error = ENOMEM;
    failed_.push_back(release(slot));
    return;
  }
  prepare(slot);
}

bool UringChannel::needs_bounce(const Operation& operation) const {
  if (alignment_ == 1) return false;
  return std::ranges::any_of(operation.data, [this](const memory::GuestSpan& piece) {
    return !piece.is_aligned(alignment_) || piece.size() % alignment_ != 0;
  });
}

bool UringChannel::take_bounce(Slot& slot) {
  const Operation& operation = *slot.operation;
  const std::size_t size = (operation.length + alignment_ - 1) / alignment_ * alignment_;
  slot.bounce.reset(static_cast<std::byte*>(std::aligned_alloc(alignment_, size)));
  if (!slot.bounce) return false;
  if (operation.kind != Operation::Kind::write) return true;
  std::span<std::byte> to(slot.bounce.get(), operation.length);
  for (const memory::GuestSpan& piece : operation.data) {
    piece.read(0, to.first(piece.size()));
    to = to.subspan(piece.size());
  }
  return true;
}

void UringChannel::prepare(Slot& slot) {
  io_uring_sqe* const entry = next_entry();
  const Operation& operation = *slot.operation;
  const int file = file_.borrow();
  const auto range = [&](int mode) {
    ::io_uring_prep_fallocate(entry, file, mode, static_cast<off_t>(operation.offset),
                              static_cast<off_t>(operation.length));
  };
  switch (operation.kind) {
    case Operation::Kind::read:
    case Operation::Kind::write:
      prepare_transfer(slot, entry);
      break;
    case Operation::Kind::flush:
      ::io_uring_prep_fsync(entry, file, IORING_FSYNC_DATASYNC);
      break;
    case Operation::Kind::discard:
      range(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
      break;
    case Operation::Kind::zero:
    case Operation::Kind::unmap:
      if (slot.fills_by_writing) {
        prepare_filling(slot, entry);
      } else {
        range((operation.kind == Operation::Kind::zero ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE) |
              FALLOC_FL_KEEP_SIZE);
      }
      break;
  }
  ::io_uring_sqe_set_data(entry, &slot);
  has_unsubmitted_ = true;
}

void UringChannel::prepare_transfer(Slot& slot, io_uring_sqe* entry) {
  const Operation& operation = *slot.operation;
  slot.parts.clear();
  if (slot.bounce) {
    slot.parts.push_back({.iov_base = slot.bounce.get() + slot.progress, .iov_len = operation.length - slot.progress});
  } else {
    std::uint64_t skip = slot.progress;
    for (const memory::GuestSpan& piece : operation.data) {
      if (skip >= piece.size()) {
        skip -= piece.size();
        continue;
      }
      slot.parts.push_back(piece.subspan(skip, piece.size() - skip).to_iovec());
      skip = 0;
      if (slot.parts.size() == IOV_MAX) break;
    }
  }
  const int file = file_.borrow();
  const auto count = static_cast<unsigned>(slot.parts.size());
  const std::uint64_t at = operation.offset + slot.progress;
  if (count == 1) {
    // Without a list of one to be fetched.
    const iovec& only = slot.parts.front();
    const auto bytes = static_cast<unsigned>(only.iov_len);
    operation.kind == Operation::Kind::read ? ::io_uring_prep_read(entry, file, only.iov_base, bytes, at)
                                            : ::io_uring_prep_write(entry, file, only.iov_base, bytes, at);
  } else if (operation.kind == Operation::Kind::read) {
    ::io_uring_prep_readv(entry, file, slot.parts.data(), count, at);
  } else {
    ::io_uring_prep_writev(entry, file, slot.parts.data(), count, at);
  }
}

void UringChannel::prepare_filling(Slot& slot, io_uring_sqe* entry) {
  const Operation& operation = *slot.operation;
  iovec part = zeros();
  part.iov_len = std::min<std::uint64_t>(part.iov_len, operation.length - slot.progress);
  slot.parts.assign(1, part);
  ::io_uring_prep_writev(entry, file_.borrow(), slot.parts.data(), 1, operation.offset + slot.progress);
}

bool UringChannel::flush() {
  if (!has_unsubmitted_) return true;
  // EAGAIN and EBUSY: the kernel is short of something, or wants completions taken first. What was not taken stays in
  // the ring, for the next pass.
  const int submitted = ::io_uring_submit(&ring_);
  has_unsubmitted_ = submitted < 0 || ::io_uring_sq_ready(&ring_) != 0;
  return !has_unsubmitted_;
}

Operation* UringChannel::reap() {
  if (!failed_.empty()) {
    Operation* const operation = failed_.back();
    failed_.pop_back();
    return operation;
  }
  io_uring_cqe* entry = nullptr;
  while (::io_uring_peek_cqe(&ring_, &entry) == 0) {
    Slot& slot = *static_cast<Slot*>(::io_uring_cqe_get_data(entry));
    const int result = entry->res;
    ::io_uring_cqe_seen(&ring_, entry);
    if (settle(slot, result)) return release(slot);
  }
  return nullptr;
}

bool UringChannel::settle(Slot& slot, int result) {
  const Operation& operation = *slot.operation;
  if (result == -EINTR || result == -EAGAIN) {
    prepare(slot);
    return false;
  }
  if (is_transfer(operation) || slot.fills_by_writing) {
    if (result < 0) return finish(slot, -result);
    // The file ends here, although it was longer once; or it takes no more.
    if (result == 0) return finish(slot, operation.kind == Operation::Kind::read ? EIO : ENOSPC);
    slot.progress += static_cast<std::uint64_t>(result);
    if (slot.progress >= operation.length) return finish(slot, 0);
    prepare(slot);
    return false;
  }
  if (result == 0 || !is_unsupported(-result) || operation.kind == Operation::Kind::flush) {
    return finish(slot, -result);
  }
  // To discard is an offer only, to write zeros is not.
  if (operation.kind == Operation::Kind::discard) return finish(slot, 0);
  slot.fills_by_writing = true;
  prepare(slot);
  return false;
}

bool UringChannel::finish(Slot& slot, int error) {
  Operation& operation = *slot.operation;
  operation.error = error;
  if (slot.bounce && error == 0 && operation.kind == Operation::Kind::read) {
    std::span<const std::byte> from(slot.bounce.get(), operation.length);
    for (const memory::GuestSpan& piece : operation.data) {
      piece.write(0, from.first(piece.size()));
      from = from.subspan(piece.size());
    }
  }
  return true;
}

Operation* UringChannel::release(Slot& slot) {
  slot.bounce.reset();
  free_.push_back(&slot);
  return slot.operation;
}

bool UringChannel::arm() {
  ::io_uring_cq_eventfd_toggle(&ring_, true);
  memory::full_fence();  // with the kernel's, between its completion and its look at the flag
  io_uring_cqe* entry = nullptr;
  return !failed_.empty() || ::io_uring_peek_cqe(&ring_, &entry) == 0;
}

void UringChannel::wait() {
  if (!failed_.empty()) return;
  ::io_uring_submit_and_wait(&ring_, 1);
  has_unsubmitted_ = ::io_uring_sq_ready(&ring_) != 0;
}

}  // namespace causeway::blk

// One queue's io_uring. Reference: io_uring(7).
#pragma once

#include "base/event_fd.h"

#include <liburing.h>
#include <sys/uio.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "blk/store.h"

namespace causeway::blk {

/// Invariants: (1) each operation under way has one slot, and at most one submission in the ring; (2) a read or write
/// that the kernel does in part is continued, so that an operation is done only when all of it is. Thread: the one that
/// has opened it.
class UringChannel final : public Channel {
 public:
  /// `file` must outlive it. `alignment`: what buffers must be aligned to, 1 for none; those that are not go through a
  /// buffer of ours.
  static Result<std::unique_ptr<Channel>> open(const OwnedFd& file, std::uint32_t depth, std::uint32_t alignment);
  ~UringChannel() override;
  UringChannel(const UringChannel&) = delete;
  UringChannel& operator=(const UringChannel&) = delete;

  void submit(Operation& operation) override;
  bool flush() override;
  Operation* reap() override;
  void wait() override;
  const OwnedFd* event() const override { return &event_.fd(); }
  bool arm() override;
  void disarm() override { ::io_uring_cq_eventfd_toggle(&ring_, false); }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  using Buffer = std::unique_ptr<std::byte, Free>;

  struct Slot {
    Operation* operation = nullptr;
    std::uint64_t progress = 0;     // bytes done
    std::vector<iovec> parts;       // of what is submitted now
    Buffer bounce;                  // holds the whole operation's data, aligned
    bool fills_by_writing = false;  // a zero or unmap that the file cannot do otherwise
  };

  UringChannel(const OwnedFd& file, EventFd event, std::uint32_t depth, std::uint32_t alignment)
      : file_(file), alignment_(alignment), event_(std::move(event)), slots_(depth) {}
  Result<void> start(std::uint32_t depth);
  io_uring_sqe* next_entry();
  void prepare(Slot& slot);
  void prepare_transfer(Slot& slot, io_uring_sqe* entry);
  void prepare_filling(Slot& slot, io_uring_sqe* entry);
  bool needs_bounce(const Operation& operation) const;
  bool take_bounce(Slot& slot);
  /// True when the operation is over; false when there is more to do, which is then submitted.
  bool settle(Slot& slot, int result);
  bool finish(Slot& slot, int error);
  Operation* release(Slot& slot);

  /// Not one of the ring's registered files: those the kernel closes, and gives their locks back, only some time after
  /// the process has been killed, and the next one could not begin.
  const OwnedFd& file_;
  std::uint32_t alignment_;
  io_uring ring_{};
  bool is_open_ = false;
  EventFd event_;
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;
  std::vector<Operation*> failed_;  // that did not even get into the ring
  bool has_unsubmitted_ = false;
};

}  // namespace causeway::blk

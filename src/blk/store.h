// What a disk's bytes lie on, and the way of one queue to them.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"
#include "memory/guest_span.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace causeway::blk {

/// One thing done to a store. The caller's until the channel gives it back as done, at the same address.
struct Operation {
  enum class Kind : std::uint8_t {
    read,
    write,
    flush,    ///< all that was done before it was submitted is on stable storage once this is done
    discard,  ///< what a range holds need not be kept
    zero,     ///< a range reads as zeros; the place it takes on the store is kept
    unmap,    ///< the same, and the store may give the place back
  };
  Kind kind = Kind::read;
  std::uint64_t offset = 0;             ///< bytes
  std::uint64_t length = 0;             ///< bytes; of a read or write the sum of `data`
  std::vector<memory::GuestSpan> data;  ///< of a read or write
  int error = 0;                        ///< once done: 0, or an errno
};

/// One queue's way to a store: takes operations, gives them back when they are done, in any order. Made, used and
/// destroyed on the thread of the queue's worker.
class Channel {
 public:
  virtual ~Channel() = default;
  /// Begins an operation, at the latest with the next `flush`. At most as many may be under way as the channel is deep.
  virtual void submit(Operation& operation) = 0;
  /// Hands over what was submitted. False: not all of it can be now; call again.
  virtual bool flush() = 0;
  /// The next operation that is done; nullptr when there is none now.
  virtual Operation* reap() = 0;
  /// Waits until one more is done. Only with operations under way.
  virtual void wait() = 0;
  /// An eventfd that is signalled, once armed, when `reap` has something to give; nullptr: everything is done when
  /// `flush` returns.
  virtual const OwnedFd* event() const = 0;
  /// Asks for that signal, then looks: true when `reap` has something to give already.
  virtual bool arm() = 0;
  virtual void disarm() = 0;
};

/// Thread: control, but for open_channel and bytes.
class Store {
 public:
  virtual ~Store() = default;
  /// For people: "file:/var/disk.img".
  virtual const std::string& name() const = 0;
  /// Present size. Thread: any.
  virtual std::uint64_t bytes() const = 0;
  virtual bool is_read_only() const = 0;
  /// What offsets and lengths must be multiples of.
  virtual std::uint32_t block_size() const = 0;
  /// Looks at the size again, which may have changed behind our back.
  virtual Result<void> refresh() = 0;
  /// For `depth` operations under way at a time. The store must outlive it. Thread: the worker's.
  virtual Result<std::unique_ptr<Channel>> open_channel(std::uint32_t depth) = 0;
  /// What a successor process can go on with; nullptr when there is nothing.
  virtual const OwnedFd* descriptor() const = 0;
};

}  // namespace causeway::blk

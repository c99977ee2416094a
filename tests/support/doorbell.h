// A doorbell that was offered: a page that is mapped, of memory or of a PCI function.
#pragma once

#include "base/result.h"
#include "memory/guest_span.h"
#include "vdpa/device.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace causeway::testing {

class Doorbell {
 public:
  /// Not as Mapping does, which knows only files that have a size.
  static Result<Doorbell> map(const vdpa::NotifyArea& area) {
    void* const page = ::mmap(nullptr, area.size, PROT_READ | PROT_WRITE, MAP_SHARED, area.fd.borrow(),
                              static_cast<off_t>(area.offset));
    if (page == MAP_FAILED) return fail(system_error("map a doorbell"));
    return Doorbell({static_cast<std::byte*>(page), area.size});
  }
  Doorbell(Doorbell&& other) noexcept : page_(std::exchange(other.page_, {})) {}
  Doorbell& operator=(Doorbell&& other) noexcept {
    std::swap(page_, other.page_);
    return *this;
  }
  ~Doorbell() {
    if (!page_.empty()) ::munmap(page_.data(), page_.size());
  }

  void ring(virtio::QueueIndex queue) const {
    memory::GuestSpan::over(page_).store(0, virtio::number(queue), std::memory_order_release);
  }

 private:
  explicit Doorbell(std::span<std::byte> page) : page_(page) {}
  std::span<std::byte> page_;
};

}  // namespace causeway::testing

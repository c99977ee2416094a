// Access to memory that a guest writes at the same time.
//
// Invariants: (1) nothing outside this module forms a pointer or reference into guest memory; (2) what is read is read
// once, into a value of ours: the compiler cannot read it again; (3) a span lies inside one mapping that its holder
// keeps alive.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace causeway::memory {

/// Plain bytes without padding: may be copied to and from guest memory as it lies.
template <class T>
concept WireType = std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>;

// A guest that writes while we copy is within its rights, so ThreadSanitizer must not look at payload copies.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CW_TSAN 1
#endif
#endif
#if defined(CW_TSAN)
__attribute__((no_sanitize("thread"), noinline)) inline void racing_copy(void* to, const void* from, std::size_t size) {
  auto* target = static_cast<volatile unsigned char*>(to);
  const auto* source = static_cast<const volatile unsigned char*>(from);
  for (std::size_t i = 0; i < size; ++i) target[i] = source[i];
}
#else
inline void copy_16(std::byte* to, const std::byte* from) {
  std::memcpy(to, from, 16);
}
/// Sizes of 16 to 64 bytes, as of most frames' ends, are copied in place by two or four moves, which may overlap: a
/// call costs more than they do.
inline void racing_copy(void* to, const void* from, std::size_t size) {
  if (size - 16 > 64 - 16) {
    std::memcpy(to, from, size);
    return;
  }
  auto* const target = static_cast<std::byte*>(to);
  const auto* const source = static_cast<const std::byte*>(from);
  copy_16(target, source);
  if (size > 32) {
    copy_16(target + 16, source + 16);
    copy_16(target + size - 32, source + size - 32);
  }
  copy_16(target + size - 16, source + size - 16);
}
#endif
#undef CW_TSAN

/// Orders all earlier stores before all later loads, which release and acquire do not. Each use names its partner.
inline void full_fence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

/// A range of guest memory. Offsets and sizes are bytes, and must lie inside: whoever made the span has checked the
/// guest's numbers. Value type. Thread: any.
class GuestSpan {
 public:
  GuestSpan() = default;

  /// Memory of our own, which no guest sees, to be copied to guests as theirs is.
  static GuestSpan over(std::span<std::byte> own) { return {own.data(), own.size()}; }

  std::size_t size() const { return size_; }
  GuestSpan subspan(std::size_t offset, std::size_t size) const {
    assert(offset <= size_ && size <= size_ - offset);
    return {base_ + offset, size};
  }
  bool is_aligned(std::size_t alignment) const { return std::bit_cast<std::uintptr_t>(base_) % alignment == 0; }

  /// A private copy of the T at `offset`, at any alignment.
  template <WireType T>
  T fetch(std::size_t offset) const {
    assert(offset <= size_ && sizeof(T) <= size_ - offset);
    // The copy is opaque from here on, so that no second read of guest memory can take its place (g++ 12 does that).
    // What fits into registers is kept there: a detour over the stack would cost a few cycles for each descriptor.
    if constexpr (sizeof(T) == 2 * sizeof(std::uint64_t)) {
      std::array<std::uint64_t, 2> words;
      racing_copy(words.data(), base_ + offset, sizeof words);
      asm volatile("" : "+r"(words[0]), "+r"(words[1]));
      return std::bit_cast<T>(words);
    } else {
      T copy;
      racing_copy(&copy, base_ + offset, sizeof copy);
      asm volatile("" : "+m"(copy));
      return copy;
    }
  }
  /// One load of a naturally aligned integer.
  template <std::unsigned_integral T>
  T load(std::size_t offset, std::memory_order order) const {
    return std::atomic_ref<T>(*at<T>(offset)).load(order);
  }
  template <std::unsigned_integral T>
  void store(std::size_t offset, T value, std::memory_order order) const {
    std::atomic_ref<T>(*at<T>(offset)).store(value, order);
  }
  template <std::unsigned_integral T>
  void fetch_or(std::size_t offset, T bits, std::memory_order order) const {
    std::atomic_ref<T>(*at<T>(offset)).fetch_or(bits, order);
  }
  template <WireType T>
  void put(std::size_t offset, const T& value) const {
    assert(offset <= size_ && sizeof(T) <= size_ - offset);
    racing_copy(base_ + offset, &value, sizeof value);
  }

  void read(std::size_t offset, std::span<std::byte> to) const {
    assert(offset <= size_ && to.size() <= size_ - offset);
    racing_copy(to.data(), base_ + offset, to.size());
    asm volatile("" : : "r"(to.data()) : "memory");  // as in fetch: what was read is not read again
  }
  /// The same for a number of bytes known to the compiler, which then knows too that nothing else has changed.
  template <std::size_t kSize>
    requires(kSize != std::dynamic_extent)
  void read(std::size_t offset, std::span<std::byte, kSize> to) const {
    assert(offset <= size_ && kSize <= size_ - offset);
    racing_copy(to.data(), base_ + offset, kSize);
    asm volatile("" : "+m"(*reinterpret_cast<std::byte(*)[kSize]>(to.data())));
  }
  void write(std::size_t offset, std::span<const std::byte> from) const {
    assert(offset <= size_ && from.size() <= size_ - offset);
    racing_copy(base_ + offset, from.data(), from.size());
  }
  /// Copies all of `from` to `offset` of this span; the two are of different guests or do not overlap.
  void copy_from(std::size_t offset, GuestSpan from) const {
    assert(offset <= size_ && from.size_ <= size_ - offset);
    racing_copy(base_ + offset, from.base_, from.size_);
  }
  void prefetch(std::size_t offset) const { __builtin_prefetch(base_ + offset); }
  void prefetch_for_write(std::size_t offset) const { __builtin_prefetch(base_ + offset, 1); }

  /// For system calls that read or write the payload.
  iovec to_iovec() const { return {.iov_base = base_, .iov_len = size_}; }

 private:
  friend class MemoryMap;
  friend class Translator;
  GuestSpan(std::byte* base, std::size_t size) : base_(base), size_(size) {}

  template <class T>
  T* at(std::size_t offset) const {
    assert(offset <= size_ && sizeof(T) <= size_ - offset);
    // SAFETY: mapped memory that holds no C++ object; alignment was checked when the ring was set up.
    return reinterpret_cast<T*>(base_ + offset);
  }

  std::byte* base_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace causeway::memory

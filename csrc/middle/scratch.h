// Scratch memory: one buffer per thread, kept between calls, cut into pieces by a Scratch.
// The plan states how much a job needs, so the buffer never grows beyond the largest
// plan's bound, however many shapes pass by.

#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>

namespace tce {

// Tests only: fill scratch and results with NaN before use, so that an element
// read before it is written is seen.
void set_poison(bool on);
bool poison();

// This thread's buffer of at least `bytes` bytes, 64-byte aligned. Throws std::bad_alloc.
std::byte* thread_scratch(size_t bytes);

// Each piece is aligned to a cache line.
constexpr int64_t scratch_bytes(int64_t count, int64_t element_size) {
  return (count * element_size + 63) / 64 * 64;
}

// Throws if `count` elements are more than a piece of `bytes` bytes holds: a plan that promised too little is
// a defect of ours, and is stopped before memory is overwritten.
inline void check_fits(int64_t count, int64_t element_size, int64_t bytes) {
  if (count * element_size > bytes)
    throw std::logic_error("torch_conv_ext: scratch bound of the plan exceeded");
}

class Scratch {
 public:
  explicit Scratch(int64_t bytes) : next_(thread_scratch(static_cast<size_t>(bytes))), end_(next_ + bytes) {}

  template <class T>
  T* take(int64_t count) {
    const int64_t bytes = scratch_bytes(count, sizeof(T));
    check_fits(bytes, 1, end_ - next_);
    T* piece = reinterpret_cast<T*>(next_);
    next_ += bytes;
    if (std::numeric_limits<T>::has_quiet_NaN && poison()) {
      for (int64_t i = 0; i < count; ++i) piece[i] = std::numeric_limits<T>::quiet_NaN();
    }
    return piece;
  }
  // The elements that fit into so many bytes, as a plan counts its parts.
  template <class T>
  T* take_bytes(int64_t bytes) {
    return take<T>(bytes / static_cast<int64_t>(sizeof(T)));
  }

 private:
  std::byte* next_;
  std::byte* end_;
};

}  // namespace tce

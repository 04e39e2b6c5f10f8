// The per-thread scratch buffers.

#include "scratch.h"

#include <atomic>
#include <new>

namespace tce {

namespace {

std::atomic<bool> poison_on{false};

struct Buffer {
  std::byte* data = nullptr;
  size_t size = 0;
  void release() {
    ::operator delete(data, std::align_val_t{64});
    data = nullptr;
    size = 0;
  }
  ~Buffer() { release(); }
};

}  // namespace

void set_poison(bool on) {
  poison_on.store(on, std::memory_order_relaxed);
}
bool poison() {
  return poison_on.load(std::memory_order_relaxed);
}

std::byte* thread_scratch(size_t bytes) {
  static thread_local Buffer buffer;
  if (bytes > buffer.size) {
    buffer.release();
    buffer.data = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64}));
    buffer.size = bytes;
  }
  return buffer.data;
}

}  // namespace tce

// Working memory of a kernel, kept between calls so that a training step allocates nothing.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace perceiver::kernels::cpu {

/// A buffer of at least `count` T, aligned to 64 bytes, contents unspecified. One buffer per thread and
/// `Tag`: a second call with the same Tag may move it.
template <typename Tag, typename T>
T* scratch(size_t count) {
  struct Free {
    void operator()(void* pointer) const { std::free(pointer); }
  };
  thread_local std::unique_ptr<void, Free> buffer;
  thread_local size_t capacity = 0;
  const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
  if (bytes > capacity) {
    buffer.reset(std::aligned_alloc(64, bytes));
    if (!buffer) throw std::bad_alloc();
    capacity = bytes;
  }
  return static_cast<T*>(buffer.get());
}

}  // namespace perceiver::kernels::cpu

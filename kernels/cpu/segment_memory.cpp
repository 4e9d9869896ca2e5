// The memory before a segment: joining both, and making the next one.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/parallel.h"
#include "kernels/relative_attention.h"

namespace perceiver::kernels::cpu {
namespace {

/// Row n of example b of memory and segment; null: zeros.
template <typename T>
const T* joined_row(const PrependMemory& k, int64_t b, int64_t n) {
  if (n >= k.memory) return static_cast<const T*>(k.x) + (b * k.rows + n - k.memory) * k.columns;
  if (k.hidden == nullptr || n < k.memory - k.remembered[b]) return nullptr;
  return static_cast<const T*>(k.hidden) + (b * k.memory + n) * k.columns;
}

template <typename T>
void copy_row(const T* from, int64_t columns, T* to) {
  if (from != nullptr) {
    std::copy_n(from, columns, to);
  } else {
    std::fill_n(to, columns, T(0));
  }
}

template <typename T>
void prepend(const PrependMemory& k) {
  const int64_t joined = k.memory + k.rows;
  parallel_for(k.batch * joined, 16, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / joined, n = item % joined;
      const T* row = joined_row<T>(k, b, n);
      if (k.out != nullptr) copy_row(row, k.columns, static_cast<T*>(k.out) + item * k.columns);
      if (k.next != nullptr && n >= k.rows)
        copy_row(row, k.columns, static_cast<T*>(k.next) + (b * k.memory + n - k.rows) * k.columns);
    }
  });
}

template <typename T>
void prepend_backward(const PrependMemoryBackward& k) {
  parallel_for(k.batch * k.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / k.rows, n = item % k.rows + k.memory;
      const T* from = static_cast<const T*>(k.d_out) + (b * (k.memory + k.rows) + n) * k.columns;
      T* to = static_cast<T*>(k.d_x) + item * k.columns;
      for (int64_t c = 0; c < k.columns; ++c) to[c] = from[c] + (k.accumulate ? to[c] : T(0));
    }
  });
}

}  // namespace

void prepend_memory(const PrependMemory& k) {
  with_type(k.type, [&]<typename T>() { prepend<T>(k); });
}

void prepend_memory_backward(const PrependMemoryBackward& k) {
  with_type(k.type, [&]<typename T>() { prepend_backward<T>(k); });
}

void copy_if_finite(const CopyIfFinite& k) {
  if (k.finite != nullptr && *k.finite == 0) return;
  std::memcpy(k.target, k.source, static_cast<size_t>(k.elements) * size_of(k.type));
}

}  // namespace perceiver::kernels::cpu

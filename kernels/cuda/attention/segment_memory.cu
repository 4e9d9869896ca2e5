// The memory before a segment: joining both, and making the next one. Each element is read and written once;
// threads go over the columns of rows.
#include <algorithm>

#include "kernels/cuda/support/common.cuh"
#include "kernels/relative_attention.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kMemoryThreads = 256;

/// A block per row of memory and segment.
template <typename T>
__global__ void prepend_memory_kernel(const __grid_constant__ PrependMemory k) {
  const int64_t joined = k.memory + k.rows, b = blockIdx.x / joined, n = blockIdx.x % joined;
  const T* row = nullptr;
  if (n >= k.memory) {
    row = static_cast<const T*>(k.x) + (b * k.rows + n - k.memory) * k.columns;
  } else if (k.hidden != nullptr && n >= k.memory - k.remembered[b]) {
    row = static_cast<const T*>(k.hidden) + (b * k.memory + n) * k.columns;
  }
  T* out = k.out == nullptr ? nullptr : static_cast<T*>(k.out) + static_cast<int64_t>(blockIdx.x) * k.columns;
  T* next = k.next == nullptr || n < k.rows
                ? nullptr
                : static_cast<T*>(k.next) + (b * k.memory + n - k.rows) * k.columns;
  if (out == nullptr && next == nullptr) return;
  for (int64_t c = threadIdx.x; c < k.columns; c += blockDim.x) {
    const T x = row == nullptr ? from_float<T>(0.0f) : row[c];
    if (out != nullptr) out[c] = x;
    if (next != nullptr) next[c] = x;
  }
}

template <typename T>
__global__ void prepend_memory_backward_kernel(const __grid_constant__ PrependMemoryBackward k) {
  const int64_t b = blockIdx.x / k.rows, n = blockIdx.x % k.rows;
  const T* from = static_cast<const T*>(k.d_out) + (b * (k.memory + k.rows) + k.memory + n) * k.columns;
  T* to = static_cast<T*>(k.d_x) + static_cast<int64_t>(blockIdx.x) * k.columns;
  for (int64_t c = threadIdx.x; c < k.columns; c += blockDim.x)
    to[c] = k.accumulate ? from_float<T>(to_float(to[c]) + to_float(from[c])) : from[c];
}

template <typename T>
__global__ void copy_if_finite_kernel(const __grid_constant__ CopyIfFinite k) {
  if (k.finite != nullptr && *k.finite == 0) return;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < k.elements; i += stride)
    static_cast<T*>(k.target)[i] = static_cast<const T*>(k.source)[i];
}

unsigned threads_for(int64_t columns) {
  return static_cast<unsigned>(std::min<int64_t>(kMemoryThreads, ceil_div(columns, 32) * 32));
}

}  // namespace

void prepend_memory(const Launch& launch, const PrependMemory& k) {
  const int64_t rows = k.batch * (k.memory + k.rows);
  if (rows == 0) return;
  with_type(k.type, [&]<typename T>() {
    prepend_memory_kernel<T>
        <<<static_cast<unsigned>(rows), threads_for(k.columns), 0, stream_of(launch)>>>(k);
  });
  check_launch("prepend_memory_kernel");
}

void prepend_memory_backward(const Launch& launch, const PrependMemoryBackward& k) {
  if (k.batch * k.rows == 0) return;
  with_type(k.type, [&]<typename T>() {
    prepend_memory_backward_kernel<T>
        <<<static_cast<unsigned>(k.batch * k.rows), threads_for(k.columns), 0, stream_of(launch)>>>(k);
  });
  check_launch("prepend_memory_backward_kernel");
}

void copy_if_finite(const Launch& launch, const CopyIfFinite& k) {
  if (k.elements == 0) return;
  const int64_t blocks = std::min<int64_t>(ceil_div(k.elements, kMemoryThreads), 16 * launch.sm_count);
  with_type(k.type, [&]<typename T>() {
    copy_if_finite_kernel<T><<<static_cast<unsigned>(blocks), kMemoryThreads, 0, stream_of(launch)>>>(k);
  });
  check_launch("copy_if_finite_kernel");
}

}  // namespace perceiver::kernels::cuda

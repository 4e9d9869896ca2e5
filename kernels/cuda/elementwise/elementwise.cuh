// The kernel for elementwise operations over flat arrays.
#pragma once

#include <algorithm>

#include "kernels/cuda/support/dependent_launch.cuh"
#include "kernels/cuda/support/vector.cuh"

namespace perceiver::kernels::cuda {

inline constexpr int kElementwiseThreads = 256;
inline constexpr int kElementwiseUnroll = 4;  // accesses of a thread that are in flight together

/// `Op` is copied to each thread. It has: bool begin(), false to do nothing; a type Values<N>, the registers
/// of N elements; load<N>(element, values) and store<N>(element, values). All loads of a thread come before
/// its first store, so an operation may work in place.
template <typename Op, int N>
__global__ void __launch_bounds__(kElementwiseThreads) elementwise_kernel(int64_t elements, Op op) {
  start_after_earlier_kernels();
  if (!op.begin()) return;
  const int64_t vectors = elements / N;
  const int64_t first =
      static_cast<int64_t>(blockIdx.x) * (kElementwiseThreads * kElementwiseUnroll) + threadIdx.x;
  typename Op::template Values<N> values[kElementwiseUnroll];
#pragma unroll
  for (int u = 0; u < kElementwiseUnroll; ++u) {
    const int64_t vector = first + u * kElementwiseThreads;
    if (vector < vectors) op.template load<N>(vector * N, values[u]);
  }
#pragma unroll
  for (int u = 0; u < kElementwiseUnroll; ++u) {
    const int64_t vector = first + u * kElementwiseThreads;
    if (vector < vectors) op.template store<N>(vector * N, values[u]);
  }
  if constexpr (N > 1) {
    const int64_t rest = vectors * N + threadIdx.x;
    if (blockIdx.x == 0 && rest < elements) {
      typename Op::template Values<1> value;
      op.template load<1>(rest, value);
      op.template store<1>(rest, value);
    }
  }
}

/// N elements per access if `wide`: every array is aligned for that.
template <int N, typename Op>
void for_each_element(const Launch& launch, int64_t elements, bool wide, const Op& op, const char* name) {
  if (elements == 0) return;
  constexpr int64_t kBlock = kElementwiseThreads * kElementwiseUnroll;
  if (wide) {
    const int64_t blocks = std::max<int64_t>(1, ceil_div(elements / N, kBlock));
    launch_dependent<elementwise_kernel<Op, N>>(launch, name, static_cast<unsigned>(blocks),
                                                kElementwiseThreads, 0, elements, op);
  } else {
    launch_dependent<elementwise_kernel<Op, 1>>(launch, name,
                                                static_cast<unsigned>(ceil_div(elements, kBlock)),
                                                kElementwiseThreads, 0, elements, op);
  }
}

}  // namespace perceiver::kernels::cuda

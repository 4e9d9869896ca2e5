// Joins attention over parts of the keys by their log-sum-exp.
//
// Bound by memory: each part is read once and the result written once, (parts + 1) * rows * width elements. A
// thread owns one 16-byte vector of a row's head and computes the weights of the parts by itself: as many
// exponentials as elements it reads, from log-sum-exps that its neighbours keep in the L1 cache.
#include "kernels/attention_join.h"

#include "kernels/cuda/support/vector.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 256;

/// Element `place` of part p of an array of parts.
template <typename T>
__device__ inline const T* part_of(const void* first, int64_t part_bytes, int64_t p, int64_t place) {
  return reinterpret_cast<const T*>(static_cast<const char*>(first) + p * part_bytes) + place;
}

/// exp(lse - largest); 0 for a part that saw nothing.
__device__ inline float weight_of(float lse, float largest) {
  return lse == INFINITY ? 0 : expf(lse - largest);
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads) join_kernel(AttentionJoin k, int64_t vectors) {
  const int64_t vector = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (vector >= vectors) return;
  const int64_t element = vector * N, head_row = element / k.head_dim;
  const int64_t row = head_row / k.heads, h = head_row % k.heads;
  const int64_t place = (row / k.queries * k.heads + h) * k.queries + row % k.queries;
  const auto lse = [&](int64_t p) { return *part_of<float>(k.part_lse, k.part_bytes, p, place); };
  float largest = -INFINITY, sum = 0;
  for (int64_t p = 0; p < k.parts; ++p)
    if (lse(p) != INFINITY) largest = fmaxf(largest, lse(p));
  for (int64_t p = 0; p < k.parts; ++p) sum += weight_of(lse(p), largest);
  const bool blind = sum == 0;
  float out[N] = {};
#pragma unroll 4
  for (int64_t p = 0; p < k.parts; ++p) {
    const float weight = blind ? 0 : weight_of(lse(p), largest) / sum;
    float part[N];
    load(part_of<T>(k.part_out, k.part_bytes, p, element), part);
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] += weight * part[i];
  }
  store(static_cast<T*>(k.out) + element, out);
  if (element % k.head_dim == 0) static_cast<float*>(k.lse)[place] = blind ? INFINITY : largest + logf(sum);
}

}  // namespace

void attention_join(const Launch& launch, const AttentionJoin& k) {
  const int64_t elements = k.batch * k.queries * k.heads * k.head_dim;
  if (elements == 0) return;
  require(k.part_bytes % static_cast<int64_t>(sizeof(float)) == 0, "parts that are aligned to 4 bytes");
  with_type(k.type, [&]<typename T>() {
    const bool wide = wide_rows<T>(k.head_dim, {k.part_out, k.out}) && k.part_bytes % 16 == 0;
    with_width<T>(wide, [&]<int N>() {
      const int64_t vectors = elements / N;
      join_kernel<T, N>
          <<<static_cast<unsigned>(ceil_div(vectors, kThreads)), kThreads, 0, stream_of(launch)>>>(k,
                                                                                                   vectors);
    });
  });
  check_launch("attention_join");
}

}  // namespace perceiver::kernels::cuda

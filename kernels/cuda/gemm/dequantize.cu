// Weights of eight bits times the scales of their rows: a block for each row. Bound by memory: it reads a
// byte and writes a T for each weight.
#include "kernels/cuda/support/narrow.cuh"
#include "kernels/cuda/support/vector.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T, typename W, int N>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(Dequantize k) {
  const int64_t begin = int64_t{blockIdx.x} * k.columns;
  const W* const weight = static_cast<const W*>(k.weight) + begin;
  T* const out = static_cast<T*>(k.out) + begin;
  const float scale = static_cast<const float*>(k.scale)[blockIdx.x];
  for (int64_t i = threadIdx.x * N; i < k.columns; i += kThreads * N) {
    float x[N];
    load(weight + i, x);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] *= scale;
    store(out + i, x);
  }
}

}  // namespace

void dequantize(const Launch& launch, const Dequantize& k) {
  if (k.rows == 0) return;
  with_type(k.type, [&]<typename T>() {
    with_narrow_type(k.weight_type, [&]<typename W>() {
      with_width<T>(wide_rows<T>(k.columns, {k.weight, k.out}), [&]<int N>() {
        dequantize_kernel<T, W, N><<<static_cast<unsigned>(k.rows), kThreads, 0, stream_of(launch)>>>(k);
      });
    });
  });
  check_launch("dequantize");
}

}  // namespace perceiver::kernels::cuda

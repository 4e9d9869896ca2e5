// Dropout by itself; the residual add and LayerNorm have it built in.
#include "kernels/cuda/norm/dropout.cuh"

#include "kernels/cuda/elementwise/elementwise.cuh"

namespace perceiver::kernels::cuda {
namespace {

template <typename T>
struct DropoutOp {
  const T* x;
  T* y;
  DropoutMask mask;
  bool accumulate;

  template <int N>
  struct Values {
    Pack<T, N> x, y;
  };
  __device__ bool begin() { return true; }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    v.x = load_pack<N>(x + i);
    if (accumulate) v.y = load_pack<N>(y + i);
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    float values[N], old[N], factor[N];
    unpack(v.x, values);
    DropoutFactors(mask).get(i, factor);
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] *= factor[j];
    if (accumulate) {
      unpack(v.y, old);
#pragma unroll
      for (int j = 0; j < N; ++j) values[j] += old[j];
    }
    cuda::store(y + i, values);
  }
};

}  // namespace

void dropout(const Launch& launch, const Dropout& k) {
  with_type(k.type, [&]<typename T>() {
    const DropoutOp<T> op{static_cast<const T*>(k.x), static_cast<T*>(k.y), k.mask, k.accumulate};
    for_each_element<kWide<T>>(launch, k.elements, aligned({k.x, k.y}), op, "dropout");
  });
}

}  // namespace perceiver::kernels::cuda

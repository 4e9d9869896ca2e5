// Kernels over flat arrays: add, cast, scale, swap (elementwise.cuh: 256 threads, each with four 16-byte
// accesses in flight), and two sums over everything. Each array is read or written once.
//
// Sums: at most 1024 blocks of 256 threads, each thread over every 256th vector of the block's contiguous
// part; one block then adds the blocks' sums. The split depends on the number of elements alone.
#include <algorithm>

#include "kernels/cuda/elementwise/elementwise.cuh"
#include "kernels/cuda/support/narrow.cuh"
#include "kernels/elementwise.h"

namespace perceiver::kernels::cuda {
namespace {

template <typename T>
struct AddOp {
  const T* source;
  T* target;

  template <int N>
  struct Values {
    Pack<T, N> source, target;
  };
  __device__ bool begin() { return true; }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    v = {load_pack<N>(source + i), load_pack<N>(target + i)};
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    float a[N], b[N];
    unpack(v.source, a), unpack(v.target, b);
#pragma unroll
    for (int j = 0; j < N; ++j) a[j] += b[j];
    cuda::store(target + i, a);
  }
};

template <typename From, typename To>
struct CastOp {
  const From* x;
  To* y;

  template <int N>
  struct Values {
    Pack<From, N> x;
  };
  __device__ bool begin() { return true; }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    v.x = load_pack<N>(x + i);
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    float values[N];
    unpack(v.x, values);
    cuda::store(y + i, values);
  }
};

template <typename From, typename To>
struct ScaleOp {
  float factor;
  const From* x;
  To* y;

  template <int N>
  struct Values {
    Pack<From, N> x;
  };
  __device__ bool begin() { return true; }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    v.x = load_pack<N>(x + i);
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    float values[N];
    unpack(v.x, values);
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] *= factor;
    cuda::store(y + i, values);
  }
};

template <typename T>
struct SwapOp {
  T* a;
  T* b;

  template <int N>
  struct Values {
    Pack<T, N> a, b;
  };
  __device__ bool begin() { return true; }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    v = {load_pack<N>(a + i), load_pack<N>(b + i)};
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    *reinterpret_cast<Pack<T, N>*>(a + i) = v.b;
    *reinterpret_cast<Pack<T, N>*>(b + i) = v.a;
  }
};

constexpr int kSumThreads = 256;
constexpr int64_t kSumBlocks = 1024;
constexpr int64_t kSumPart = 8192;  // elements per block, at least

/// The terms of the two sums.
struct Square {
  using Sum = double;
  __device__ static double of(float x) {
    const double wide = x;
    return wide * wide;
  }
};
struct NonFinite {
  using Sum = int64_t;
  __device__ static int64_t of(float x) { return !isfinite(x); }
};

template <typename Term, typename T, int N>
__global__ void __launch_bounds__(kSumThreads)
    sum_kernel(const T* x, int64_t elements, typename Term::Sum* parts) {
  start_after_earlier_kernels();
  const int64_t vectors = elements / N;
  const int64_t end = vectors * (blockIdx.x + 1) / gridDim.x;
  typename Term::Sum sum = 0;
#pragma unroll 4
  for (int64_t i = vectors * blockIdx.x / gridDim.x + threadIdx.x; i < end; i += kSumThreads) {
    float values[N];
    load(x + i * N, values);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += Term::of(values[j]);
  }
  const int64_t rest = vectors * N + threadIdx.x;
  if (N > 1 && blockIdx.x == 0 && rest < elements) sum += Term::of(to_float(x[rest]));
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

template <typename Sum>
__global__ void __launch_bounds__(kSumThreads)
    finish_sum_kernel(const Sum* parts, int64_t count, Sum* total) {
  start_after_earlier_kernels();
  Sum sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += parts[i];
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) *total = sum;
}

template <typename Term>
void sum_all(const Launch& launch, DType type, const void* x, int64_t elements, typename Term::Sum* total) {
  auto* parts = static_cast<typename Term::Sum*>(launch.workspace);
  const int64_t blocks = elements == 0 ? 0 : std::min(kSumBlocks, ceil_div(elements, kSumPart));
  with_type(type, [&]<typename T>() {
    if (blocks == 0) return;
    with_width<T>(aligned({x}), [&]<int N>() {
      launch_dependent<sum_kernel<Term, T, N>>(launch, "sum", static_cast<unsigned>(blocks), kSumThreads, 0,
                                               static_cast<const T*>(x), elements, parts);
    });
  });
  launch_dependent<finish_sum_kernel<typename Term::Sum>>(launch, "sum", 1, kSumThreads, 0, parts, blocks,
                                                          total);
}

template <typename From, typename To>
void cast_elements(const Launch& launch, const Cast& k) {
  const CastOp<From, To> op{static_cast<const From*>(k.x), static_cast<To*>(k.y)};
  constexpr int kElements = std::max(kWide<From>, kWide<To>);
  for_each_element<kElements>(launch, k.elements, aligned({k.x, k.y}), op, "cast");
}

}  // namespace

void cast(const Launch& launch, const Cast& k) {
  if (k.to == DType::e4m3)
    return with_type(k.from, [&]<typename From>() { cast_elements<From, E4m3>(launch, k); });
  if (k.from == DType::e4m3)
    return with_type(k.to, [&]<typename To>() { cast_elements<E4m3, To>(launch, k); });
  with_type(k.from, [&]<typename From>() {
    with_type(k.to, [&]<typename To>() { cast_elements<From, To>(launch, k); });
  });
}

void add(const Launch& launch, const Add& k) {
  with_type(k.type, [&]<typename T>() {
    const AddOp<T> op{static_cast<const T*>(k.source), static_cast<T*>(k.target)};
    for_each_element<kWide<T>>(launch, k.elements, aligned({k.source, k.target}), op, "add");
  });
}

void scale(const Launch& launch, const Scale& k) {
  with_type(k.from, [&]<typename From>() {
    with_type(k.to, [&]<typename To>() {
      const ScaleOp<From, To> op{static_cast<float>(k.factor), static_cast<const From*>(k.x),
                                 static_cast<To*>(k.y)};
      constexpr int kElements = kWide < From >> kWide<To> ? kWide<From> : kWide<To>;
      for_each_element<kElements>(launch, k.elements, aligned({k.x, k.y}), op, "scale");
    });
  });
}

void swap(const Launch& launch, const Swap& k) {
  with_type(k.type, [&]<typename T>() {
    const SwapOp<T> op{static_cast<T*>(k.a), static_cast<T*>(k.b)};
    for_each_element<kWide<T>>(launch, k.elements, aligned({k.a, k.b}), op, "swap");
  });
}

void count_non_finite(const Launch& launch, const CountNonFinite& k) {
  sum_all<NonFinite>(launch, k.type, k.x, k.elements, k.count);
}

void sum_of_squares(const Launch& launch, const SumOfSquares& k) {
  sum_all<Square>(launch, k.type, k.x, k.elements, k.sum);
}

}  // namespace perceiver::kernels::cuda
